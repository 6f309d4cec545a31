"""Weighted sums of gathered rows, and their products with tokens.

Rows lie at random addresses, so the speed depends on how many loads are in flight at the same time. A program therefore
starts loading several rows of its tile before it needs the first.

Letters: L lookups a token, D columns of the table; a program's R lookups at once and C columns.
"""

import triton
import triton.language as tl

from membench.layers.kernels.triton.blocks import gathered


@triton.jit
def bag(
    table: tl.tensor,
    rows: tl.tensor,
    weights: tl.tensor,
    sums: tl.tensor,
    lookups: tl.tensor,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A program sums one tile of one token's bag; tiles of the same token are neighbours."""
    tiles = tl.cdiv(COLUMNS, TILE)
    token = (tl.program_id(0) // tiles).to(tl.int64)
    column = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    sum = tl.zeros([ROWS, TILE], tl.float32)
    first = 0
    while first < lookups:
        at = first + tl.arange(0, ROWS)
        here = at < lookups
        row = tl.load(rows + token * lookups + at, mask=here, other=0)
        weight = tl.load(weights + token * lookups + at, mask=here, other=0.0).to(tl.float32)
        sum += weight[:, None] * gathered(table, row, here, column, COLUMNS, PITCH)
        first += ROWS
    tl.store(sums + token * COLUMNS + column, tl.sum(sum, 0), mask=column < COLUMNS)


@triton.jit
def dots(
    table: tl.tensor,
    rows: tl.tensor,
    tokens: tl.tensor,
    products: tl.tensor,
    lookups: tl.tensor,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    SHARE: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A program multiplies a share of a token's rows with the token, R at a time, tile by tile."""
    shares = tl.cdiv(lookups, SHARE)
    token = (tl.program_id(0) // shares).to(tl.int64)
    first = tl.program_id(0) % shares * SHARE
    end = tl.minimum(first + SHARE, lookups)
    while first < end:
        at = first + tl.arange(0, ROWS)
        here = at < end
        row = tl.load(rows + token * lookups + at, mask=here, other=0)
        product = tl.zeros([ROWS, TILE], tl.float32)
        for left in range(0, COLUMNS, TILE):
            column = left + tl.arange(0, TILE)
            vector = tl.load(tokens + token * COLUMNS + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
            product += gathered(table, row, here, column, COLUMNS, PITCH) * vector[None, :]
        tl.store(products + token * lookups + at, tl.sum(product, 1), mask=here)
        first += ROWS
