"""Products of rows sorted by expert with their experts' matrices: one launch for all experts, by Triton.

The rows can be gathered inside the kernel, so that copies of tokens are never written. The rows of an expert are not
padded in memory: a tile belongs to one expert, and results beyond the expert's last row are not stored. Each
program finds its tile's expert from ``ends``. The grid is large enough for every split of R rows among E experts, so
the host need not know the split.

Letters: E experts, R rows, B tokens, m and n the widths of a matrix.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# (Triton compiles the kernels itself; its annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.launch import launch

_EXPERTS_TOGETHER = 1024  # whose tiles a program counts at once
_TILES_TOGETHER = 8  # tiles of rows that pass over the columns side by side, sharing them in the L2 cache


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor, token: Tensor | None = None) -> Tensor:
    """As ``layers.kernels.torch.grouped_matmul.grouped_linear``."""
    experts, columns, inner = weight.shape
    rows = len(x if token is None else token)
    y = x.new_empty(rows, columns)
    if not y.numel():
        return y
    block = _block(x.itemsize, columns, inner)
    tiles = triton.cdiv(rows, block["ROWS"]) + experts
    launch(
        x,
        _grouped_linear,
        (tiles * triton.cdiv(columns, block["COLUMNS"]),),
        x.contiguous(),
        token,
        weight,
        ends,
        y,
        experts,
        *weight.stride(),
        TILES_TOGETHER=_TILES_TOGETHER,
        EXPERTS_TOGETHER=min(triton.next_power_of_2(experts), _EXPERTS_TOGETHER),
        N=columns,
        M=inner,
        PRECISION=_precision(),
        **block,
    )
    return y


def grouped_linear_gradients(
    y_gradient: Tensor,
    x: Tensor,
    ends: Tensor,
    y_token: Tensor | None = None,
    x_token: Tensor | None = None,
) -> Tensor:
    """As ``layers.kernels.torch.grouped_matmul.grouped_linear_gradients``."""
    columns, inner = y_gradient.shape[1], x.shape[1]
    gradient = x.new_empty(len(ends), columns, inner)
    block = _block(x.itemsize, inner, columns)
    tiles = triton.cdiv(columns, block["INNER"]) * triton.cdiv(inner, block["COLUMNS"])
    launch(
        x,
        _grouped_linear_gradients,
        (len(ends) * tiles,),
        y_gradient.contiguous(),
        x.contiguous(),
        y_token,
        x_token,
        ends,
        gradient,
        N=columns,
        M=inner,
        PRECISION=_precision(),
        **block,
    )
    return gradient


def _block(itemsize: int, columns: int, inner: int) -> dict[str, int]:
    """A tile's sides, of narrow matrices no more than needed; a product's least side is 16."""
    most_columns, most_inner = (128, 64) if itemsize == 2 else (64, 32)
    return {
        "ROWS": 64,
        "COLUMNS": max(16, min(most_columns, triton.next_power_of_2(columns))),
        "INNER": max(16, min(most_inner, triton.next_power_of_2(inner))),
        "num_warps": 4,
        "num_stages": 3,
    }


def _precision() -> str:
    """Of fp32 products: as torch is told to multiply matrices. Three products in TF32 come near to one in fp32."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@triton.jit
def _first_row(ends: tl.tensor, expert: tl.tensor) -> tl.tensor:
    return tl.load(ends + expert - 1, mask=expert > 0, other=0)


@triton.jit
def _tile_of(
    ends: tl.tensor, tile: tl.tensor, experts: tl.tensor, EXPERTS_TOGETHER: tl.constexpr, ROWS: tl.constexpr
) -> tl.tensor:
    """The expert whose tile this is, counted over all experts, and the tile's first row; no expert past the last."""
    expert = tl.zeros([], tl.int32)
    before = tl.zeros([], tl.int32)  # tiles of the experts before it
    counted = tl.zeros([], tl.int32)
    for start in range(0, experts, EXPERTS_TOGETHER):
        some = start + tl.arange(0, EXPERTS_TOGETHER)
        end = tl.load(ends + some, mask=some < experts, other=0)
        first = tl.load(ends + some - 1, mask=(some > 0) & (some < experts), other=0)
        tiles = tl.cdiv(end - first, ROWS)
        passed = (some < experts) & (counted + tl.cumsum(tiles, 0) <= tile)
        expert += tl.sum(passed.to(tl.int32), 0)
        before += tl.sum(tl.where(passed, tiles, 0), 0)
        counted += tl.sum(tiles, 0)
    return expert, (tile - before) * ROWS


@triton.jit
def _grouped_linear(
    x: tl.tensor,
    token: tl.tensor,
    weight: tl.tensor,
    ends: tl.tensor,
    y: tl.tensor,
    experts: tl.tensor,
    expert_stride: tl.tensor,
    column_stride: tl.tensor,
    inner_stride: tl.tensor,
    TILES_TOGETHER: tl.constexpr,
    EXPERTS_TOGETHER: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
) -> None:
    across = tl.cdiv(N, COLUMNS)
    down = tl.num_programs(0) // across
    tile, left = tl.swizzle2d(tl.program_id(0) // across, tl.program_id(0) % across, down, across, TILES_TOGETHER)
    expert, offset = _tile_of(ends, tile, experts, EXPERTS_TOGETHER, ROWS)
    if expert >= experts:
        return
    end = tl.load(ends + expert)
    row = _first_row(ends, expert) + offset + tl.arange(0, ROWS)
    source = tl.minimum(row, end - 1)  # what lies past the end is computed from the last row, and not stored
    if token is not None:
        source = tl.load(token + source)
    column = left * COLUMNS + tl.arange(0, COLUMNS)
    x += source.to(tl.int64)[:, None] * M
    weight += expert.to(tl.int64) * expert_stride + column.to(tl.int64)[None, :] * column_stride
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, M, INNER):
        inner = start + tl.arange(0, INNER)
        some_x = tl.load(x + inner[None, :], mask=inner[None, :] < M, other=0.0)
        inside = (inner[:, None] < M) & (column[None, :] < N)
        some_weight = tl.load(weight + inner.to(tl.int64)[:, None] * inner_stride, mask=inside, other=0.0)
        product = tl.dot(some_x, some_weight, product, input_precision=PRECISION)
    here = (row[:, None] < end) & (column[None, :] < N)
    tl.store(y + row.to(tl.int64)[:, None] * N + column[None, :], product.to(y.dtype.element_ty), mask=here)


@triton.jit
def _grouped_linear_gradients(
    y_gradient: tl.tensor,
    x: tl.tensor,
    y_token: tl.tensor,
    x_token: tl.tensor,
    ends: tl.tensor,
    gradient: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
) -> None:
    across, down = tl.cdiv(M, COLUMNS), tl.cdiv(N, INNER)
    expert = tl.program_id(0) // (across * down)
    n = tl.program_id(0) // across % down * INNER + tl.arange(0, INNER)
    m = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    end = tl.load(ends + expert)
    product = tl.zeros([INNER, COLUMNS], tl.float32)
    for start in range(_first_row(ends, expert), end, ROWS):
        row = start + tl.arange(0, ROWS)
        some_y = _rows(y_gradient, y_token, row, end, n, N)
        some_x = _rows(x, x_token, row, end, m, M)
        product = tl.dot(tl.trans(some_y), some_x, product, input_precision=PRECISION)
    place = (expert.to(tl.int64) * N + n[:, None]) * M + m[None, :]
    tl.store(gradient + place, product.to(gradient.dtype.element_ty), mask=(n[:, None] < N) & (m[None, :] < M))


@triton.jit
def _rows(
    of: tl.tensor, token: tl.tensor, row: tl.tensor, end: tl.tensor, column: tl.tensor, WIDTH: tl.constexpr
) -> tl.tensor:
    """Some columns of some rows, gathered where tokens are given; zeros from the end on."""
    source = row
    if token is not None:
        source = tl.load(token + row, mask=row < end, other=0)
    inside = (row[:, None] < end) & (column[None, :] < WIDTH)
    return tl.load(of + source.to(tl.int64)[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
