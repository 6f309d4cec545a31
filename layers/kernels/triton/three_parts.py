"""An fp32 matrix as three of bf16 side by side, in one pass of Triton. See ``layers.kernels.wide_products``.

Letters: S matrices, R rows, c columns.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernel itself; its annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.blocks import gathered, scatter
from membench.layers.kernels.triton.launch import launch

_HELD = 2048  # numbers of a program
_MOST_COLUMNS = 512


def three_parts(x: Tensor) -> Tensor:
    """(…, 3c) bf16 of x (…, c); of x (S, R, c) it reads rows where they lie, as halves of queries lie in a token's."""
    columns = x.shape[-1]
    if x.ndim != 3 or (x.stride(-1) != 1 and columns > 1):
        x = x.contiguous()
    each, strides = (x.shape[1], x.stride()[:2]) if x.ndim == 3 else (x.numel() // max(1, columns), (0, columns))
    parts = torch.empty(*x.shape[:-1], 3 * columns, dtype=torch.bfloat16, device=x.device)
    if x.numel():
        tile, rows = min(_MOST_COLUMNS, triton.next_power_of_2(columns)), x.numel() // columns
        constants = {"COLUMNS": columns, "ROWS": max(1, _HELD // tile), "TILE": tile}
        programs = (triton.cdiv(rows, constants["ROWS"]), triton.cdiv(columns, tile))
        launch(x, _three_parts, programs, x, parts, *strides, each=each, count=rows, **constants)
    return parts


@triton.jit(do_not_specialize=["each", "count"])
def _three_parts(
    x: tl.tensor,
    parts: tl.tensor,
    matrix_stride: tl.tensor,
    row_stride: tl.tensor,
    each: tl.tensor,
    count: tl.tensor,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * TILE + tl.arange(0, TILE)
    here = row < count
    first = (row // each).to(tl.int64) * matrix_stride + (row % each).to(tl.int64) * row_stride
    scatter_parts(parts, gathered(x, first, here, column, COLUMNS, 1), row, here, column, COLUMNS)


@triton.jit
def scatter_parts(
    parts: tl.tensor,
    value: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    column: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    """Writes a block of (R, c) fp32 as blocks of its parts (R, 3c)."""
    high = value.to(tl.bfloat16).to(tl.float32)
    rest = tl.where(tl.abs(high) < float("inf"), value - high, 0.0)  # of a NaN nothing is less
    middle = rest.to(tl.bfloat16).to(tl.float32)
    scatter(parts, high, row, here, column, COLUMNS, 3 * COLUMNS)
    scatter(parts + COLUMNS, middle, row, here, column, COLUMNS, 3 * COLUMNS)
    scatter(parts + 2 * COLUMNS, rest - middle, row, here, column, COLUMNS, 3 * COLUMNS)
