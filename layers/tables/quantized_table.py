"""Value rows in eight bits per number with one scale per row: a table for forward passes and decoding only.

Letters: N rows, D columns, B tokens, L lookups a token, U rows.
"""

import math
from typing import Self

import torch
from torch import Tensor, nn

from membench.layers.initialize import BLOCK_ELEMENTS, Place, repeat_
from membench.layers.kept_dtype import Move, dtype_after, moved_alone
from membench.layers.kernels.lookups import Lookups
from membench.layers.kernels.pages import allocate, on_huge_pages
from membench.layers.kernels.quantization import LARGEST, dequantize_rows, quantize_rows, rows_of
from membench.layers.kernels.quantized_bag import quantized_bag
from membench.layers.tables.value_table import ValueTable

# Relative RMS error of normally distributed rows, up to 2^14 columns. int8: max|row| / 127 / sqrt(12), which grows with
# the number of columns. e4m3: each number has an error of up to 2^-4 of itself, whatever the number of columns.
NORMAL_ROW_ERROR = {torch.int8: 0.0096, torch.float8_e4m3fn: 0.0268}
_SCALE_SPREAD = 0.1  # scales differ from row to row, as the largest of some hundred normal numbers do


class QuantizedTable(nn.Module):
    """``weight`` (N, D) int8 or float8_e4m3fn and ``scales`` (N,) fp32; a row is its scale times its numbers.

    It is read like a ``ValueTable`` and has no gradient. Results are of ``dtype``. A cast (``.half()``) changes only
    that, because numbers and scales together are one format.
    """

    gradient = None

    def __init__(self, weight: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.dtype = dtype

    @property
    def huge_pages(self) -> bool:
        """Whether the numbers lie on huge pages."""
        return self.weight.device.type == "cpu" and on_huge_pages(self.weight)

    @classmethod
    def random(
        cls,
        num_rows: int,
        columns: int,
        row_dtype: torch.dtype,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        std: float = 1.0,
        generator: torch.Generator | None = None,
        place: Place | None = None,
    ) -> "QuantizedTable":
        """Normally distributed rows, drawn in quantized form, so that no more memory is used than the table needs.

        A shard is drawn as its ``place`` of the whole table, but for its scales, of which all are drawn for a moment.
        """
        rows, width = (num_rows, columns) if place is None else place.shape
        first = 0 if place is None else place.offsets[0]
        largest = LARGEST[row_dtype]
        # the largest of D normal numbers, roughly, becomes the format's largest
        scale = std * math.sqrt(2 * math.log(2 * width)) / largest
        weight = allocate(num_rows, columns, row_dtype, torch.device(device))
        block = torch.empty(min(rows * width, BLOCK_ELEMENTS), dtype=torch.float32, device=device)
        block.normal_(0.0, std / scale, generator=generator).clamp_(-largest, largest)
        repeat_(weight, (block.round_() if row_dtype == torch.int8 else block).to(row_dtype), place)
        scales = torch.empty(rows, dtype=torch.float32, device=device)
        scales.uniform_(scale * (1 - _SCALE_SPREAD), scale * (1 + _SCALE_SPREAD), generator=generator)
        return cls(weight, scales if place is None else scales[first : first + num_rows].clone(), dtype)

    @classmethod
    def from_table(cls, table: Tensor, row_dtype: torch.dtype) -> "QuantizedTable":
        """The rows of a table (N, D), rounded.

        Raises:
            ValueError: ``row_dtype`` is not a row format, or a number of the table is not finite.
        """
        weight = allocate(len(table), table.shape[1], row_dtype, table.device)
        return cls(*quantize_rows(table, row_dtype, out=weight), table.dtype)

    def bag(self, lookups: Lookups, weights: Tensor) -> Tensor:
        """(B, D): the sum over a token's L lookups of weights (B, L) times rows."""
        return quantized_bag(self.weight, self.scales, lookups.rows, weights, self.dtype)

    def exact_rows(self, rows: Tensor) -> Tensor:
        """(U, D) float64: the very numbers that rows (U,) stand for."""
        return dequantize_rows(rows_of(self.weight, rows), self.scales[rows])

    def _apply(self, fn: Move, recurse: bool = True) -> Self:
        super()._apply(lambda tensor: moved_alone(fn, tensor), recurse)
        self.dtype = dtype_after(fn, self.dtype)
        return self

    def extra_repr(self) -> str:
        rows, columns = self.weight.shape
        return f"{rows}, {columns}, rows={self.weight.dtype}, dtype={self.dtype}, huge_pages={self.huge_pages}"


AnyTable = ValueTable | QuantizedTable


def tables_of(layer: nn.Module) -> dict[str, AnyTable]:
    """A layer's tables by name, those too that are only read."""
    return {name: m for name, m in layer.named_modules() if isinstance(m, (ValueTable, QuantizedTable))}


def exact_rows(table: AnyTable, rows: Tensor) -> Tensor:
    """(U, D) of rows (U,): the very numbers that the layer reads."""
    if isinstance(table, QuantizedTable):
        return table.exact_rows(rows)
    return table.weight[rows.to(table.weight.device)].to(rows.device)
