"""Products of 16-bit matrices on a GPU's matrix units, summed and returned in fp32.

Products of bf16 numbers are exact in fp32, so bf16 matrices need no fp32 multiplications, of which a GPU does an eighth
or less. An fp32 number is the sum of three in bf16, to 24 bits: its rounding, the rounding of what that left, and of
what was left then. Side by side along what is summed, they are one product: [hi|mid|lo]·[k|k|k].

Letters: S matrices, B and n rows, c columns.
"""

import torch
from torch import Tensor

from membench.layers.kernels.paths import on_gpu, path_of


def can_multiply(keys: Tensor) -> bool:
    """Whether these products are for such keys: torch returns fp32 for 16-bit operands on CUDA only."""
    return on_gpu(keys) and keys.dtype == torch.bfloat16


def wide_product(x: Tensor, keys: Tensor) -> Tensor:
    """(S, B, n) fp32 of x (S, B, c), fp32 or bf16, or its three parts (S, B, 3c); and keys (S, n, c), bf16."""
    if x.dtype == torch.float32:
        x = _three_parts(x)
    if x.shape[-1] == 3 * keys.shape[-1]:
        keys = keys.repeat(1, 1, 3)
    return _multiplied(x, keys.transpose(1, 2))


def _three_parts(x: Tensor) -> Tensor:
    """(S, B, 3c) bf16, side by side: three that add up to x; where the first is no finite number, the others are 0."""
    if path_of(x) == "triton":
        from membench.layers.kernels.triton.three_parts import three_parts

        return three_parts(x)
    high = x.bfloat16()
    rest = torch.where(high.isfinite(), x - high, 0)
    middle = rest.bfloat16()
    return torch.cat([high, middle, (rest - middle).bfloat16()], dim=-1)


def _multiplied(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.bmm(x, matrix, out_dtype=torch.float32)
