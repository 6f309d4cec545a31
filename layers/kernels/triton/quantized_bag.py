"""Bags of quantized rows in Triton: a program sums one tile of one token's bag, as in ``bag_kernels``.

Rows are widened in registers as they arrive: e4m3 numbers by an instruction where a GPU has one (from compute
capability 8.9 on), elsewhere by their bits.

Letters: N rows, D columns, B tokens, L lookups a token.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernel itself; its annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.launch import capability, launch
from membench.layers.kernels.triton.row_passes import tile_of_bags
from membench.layers.kernels.triton.row_shape import row_shape

_SUMMED_BYTES = 2  # tiles as of bfloat16 rows: it is a tile's fp32 sums that fill registers, not what is fetched
_CONVERTS = (8, 9)  # the first compute capability that has the instruction

# e4m3's sign, exponent and fraction where an fp32 has them; the biases, 7 and 127, differ by 120.
_FLOAT8_BITS = tl.constexpr(0x87F00000 - 2**32)
_REBIAS = tl.constexpr(2.0**120)


def quantized_bag(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``layers.kernels.quantized_bag.quantized_bag``."""
    (tokens, lookups), columns = rows.shape, table.shape[1]
    bags = torch.empty(tokens, columns, dtype=dtype, device=table.device)
    tile = tile_of_bags(table.device, tokens, columns, _SUMMED_BYTES, lookups)
    float8 = table.dtype == torch.float8_e4m3fn
    converts = float8 and capability(table) >= _CONVERTS
    if bags.numel():
        launch(
            table,
            _quantized_bag,
            (tokens * tile.parts(columns),),
            table if converts else table.view(torch.int8),
            scales.contiguous(),
            rows.contiguous(),
            weights.contiguous(),
            bags,
            LOOKUPS=lookups,
            FLOAT8=float8,
            CONVERTS=converts,
            **row_shape(table),
            **tile.constants,
        )
    return bags


@triton.jit
def _widened(bits: tl.tensor, FLOAT8: tl.constexpr, CONVERTS: tl.constexpr) -> tl.tensor:
    """int8 numbers or e4m3 numbers in fp32, the latter given as int8 unless the GPU ``CONVERTS`` them itself."""
    if FLOAT8 and not CONVERTS:
        moved = (bits.to(tl.int32) << 20) & _FLOAT8_BITS
        return moved.to(tl.float32, bitcast=True) * _REBIAS
    return bits.to(tl.float32)


@triton.jit
def _quantized_bag(
    table: tl.tensor,
    scales: tl.tensor,
    rows: tl.tensor,
    weights: tl.tensor,
    bags: tl.tensor,
    LOOKUPS: tl.constexpr,
    FLOAT8: tl.constexpr,
    CONVERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A program sums one tile of one token's bag; tiles of the same token are neighbours."""
    parts = tl.cdiv(COLUMNS, TILE)
    token = (tl.program_id(0) // parts).to(tl.int64)
    column = tl.program_id(0) % parts * TILE + tl.arange(0, TILE)
    sums = tl.zeros([ROWS, TILE], tl.float32)
    for first in range(0, LOOKUPS, ROWS):
        at = first + tl.arange(0, ROWS)
        here = at < LOOKUPS
        row = tl.load(rows + token * LOOKUPS + at, mask=here, other=0).to(tl.int64)
        factor = tl.load(weights + token * LOOKUPS + at, mask=here, other=0.0).to(tl.float32)
        factor *= tl.load(scales + row, mask=here, other=0.0)
        inside = here[:, None] & (column < COLUMNS)[None, :]
        bits = tl.load(table + row[:, None] * PITCH + column[None, :], mask=inside, other=0.0)
        sums += factor[:, None] * _widened(bits, FLOAT8, CONVERTS)
    total = tl.sum(sums, 0).to(bags.dtype.element_ty)
    tl.store(bags + token * COLUMNS + column, total, mask=column < COLUMNS)
