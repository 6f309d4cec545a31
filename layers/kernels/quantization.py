"""Table rows in eight bits per number, with one fp32 scale per row: row = scale · q.

Symmetric: the number with the largest magnitude in a row becomes the largest number of the format. ``int8`` holds
-127 to 127 in equal steps, so the error is at most half a step, max|row| / 254. ``float8_e4m3fn`` (arXiv 2209.05433)
has four bits of exponent and three of fraction, so the error is at most 2^-4 of the number. The exceptions are
numbers below 2^-14.8 of the largest: their steps are equal, 2^-9 where the largest number is 448.

Letters: N rows, D columns.
"""

import torch
from torch import Tensor

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}

_ELEMENTS_A_PART = 2**22
# e4m3's sign, exponent and fraction where an fp32 has them; the biases, 7 and 127, differ by 120.
_SHIFT, _FLOAT8_BITS, _REBIAS = 20, 0x87F00000 - 2**32, 2.0**120


@torch.no_grad()
def quantize_rows(table: Tensor, dtype: torch.dtype, *, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(q (N, D) of ``dtype``, scales (N,) fp32) of a table (N, D), a part at a time.

    Args:
        dtype: int8 or float8_e4m3fn.
        out: where q is written, if given.

    Raises:
        ValueError: another dtype, or a number that is not finite.
    """
    if dtype not in LARGEST:
        raise ValueError(f"rows are stored in {' or '.join(map(str, LARGEST))}, not in {dtype}")
    largest = LARGEST[dtype]
    quantized = torch.empty(table.shape, dtype=dtype, device=table.device) if out is None else out
    scales = torch.empty(table.shape[0], dtype=torch.float32, device=table.device)
    rows = max(1, _ELEMENTS_A_PART // max(1, table.shape[1]))
    for part, q, scale in zip(table.split(rows), quantized.split(rows), scales.split(rows), strict=True):
        values = part.float()
        torch.div(values.abs().amax(dim=1), largest, out=scale)
        if not bool(scale.isfinite().all()):
            raise ValueError("a table with numbers that are not finite cannot be quantized")
        # a row of zeros has a scale of 0 and stays zero
        values = (values / scale.masked_fill(scale == 0, 1.0)[:, None]).clamp_(-largest, largest)
        q.copy_(values.round_() if dtype == torch.int8 else values)
    return quantized, scales


def rows_of(quantized: Tensor, rows: Tensor) -> Tensor:
    """(U, D): rows (U,) of the table. They are gathered as bytes, because not every device gathers float8."""
    return quantized.view(torch.int8).index_select(0, rows).view(quantized.dtype)


def dequantize_rows(quantized: Tensor, scales: Tensor) -> Tensor:
    """(N, D) float64, exact: a scale's 24 bits times a number's eight fit its 53."""
    return quantized.double() * scales.double()[:, None]


def widened(quantized: Tensor) -> Tensor:
    """The same numbers in fp32. e4m3 is converted by its bits: several times faster on a CPU than torch's cast.

    The two codes for NaN become 480; ``quantize_rows`` never makes them.
    """
    if quantized.dtype != torch.float8_e4m3fn:
        return quantized.float()
    bits = quantized.view(torch.int8).int().bitwise_left_shift_(_SHIFT).bitwise_and_(_FLOAT8_BITS)
    return bits.view(torch.float32).mul_(_REBIAS)
