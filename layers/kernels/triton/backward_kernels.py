"""The backward pass over the rows that were read: each row's tokens are gathered once, for its gradient and its dots.

Most rows are read a few times, a few rows very often. A program handles several short runs at the same time, so that
their loads overlap, two lookups of each. For long runs the sorted lookups are cut into windows of SPLIT. One program
sums the lookups of each piece, then one program adds the pieces in order. A long run has more lookups than a window. So
a window contains pieces of at most two long runs: one that continues at its beginning, and one that begins inside.
There are no atomics, and the host need not know anything about the runs.

Letters: M lookups, L lookups a token, U runs, D columns; a program's R runs or lookups at once, C columns.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.blocks import gathered, scatter
from membench.layers.kernels.triton.update_kernels import numbers_of, state_of, update


class Operands(NamedTuple):
    """Of ``layers.kernels.row_passes.row_backward``; ``dots`` (tiles, M), of each tile's columns. None: not wanted."""

    table: Tensor
    rows: Tensor
    starts: Tensor
    order: Tensor
    weights: Tensor
    tokens: Tensor
    gradient: Tensor | None
    dots: Tensor | None


@triton.jit(do_not_specialize=["runs", "count", "number", "seed"])
def short_runs(
    of: tl.tuple,
    step: tl.tuple,
    runs: tl.tensor,
    count: tl.tensor,
    number: tl.tensor,
    seed: tl.tensor,
    LOOKUPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    BY_ROW: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A program sums a tile of R runs of at most SPLIT lookups: the first two of every run, then the next two, …

    Of two lookups the tokens are asked for before the first is needed, and so is what an update reads of the rows.
    """
    tile = tl.program_id(1)
    column = tile * TILE + tl.arange(0, TILE)
    run = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.load(of.starts + run, mask=run < runs, other=0)
    length = tl.load(of.starts + run + 1, mask=run < runs, other=0) - begin
    length = tl.where(length > SPLIT, 0, length)
    longest = tl.max(length, 0)
    if longest > 0:
        live = length > 0
        row = tl.load(of.rows + run, mask=live, other=0).to(tl.int64)
        lookup = tl.load(of.order + begin, mask=live, other=0)
        other = tl.load(of.order + begin + 1, mask=length > 1, other=0)
        if of.dots is not None or OPTIMIZER is not None:
            values = gathered(of.table, row, live, column, COLUMNS, PITCH)
        if OPTIMIZER is not None:
            state = state_of(row, live, column, step, COLUMNS, OPTIMIZER)
        sum = tl.zeros([ROWS, TILE], tl.float32)
        at = 0
        while at < longest:
            here, there = at < length, at + 1 < length
            vectors = gathered(of.tokens, lookup // LOOKUPS, here, column, COLUMNS, COLUMNS)
            others = gathered(of.tokens, other // LOOKUPS, there, column, COLUMNS, COLUMNS)
            following = tl.load(of.order + begin + at + 2, mask=at + 2 < length, other=0)
            after = tl.load(of.order + begin + at + 3, mask=at + 3 < length, other=0)
            if of.gradient is not None or OPTIMIZER is not None:
                weight = tl.load(of.weights + lookup, mask=here, other=0.0).to(tl.float32)
                of_other = tl.load(of.weights + other, mask=there, other=0.0).to(tl.float32)
                sum += weight[:, None] * vectors
                sum += of_other[:, None] * others
            if of.dots is not None:
                products = of.dots + tile.to(tl.int64) * count
                tl.store(products + lookup, tl.sum(values * vectors, 1), mask=here)
                tl.store(products + other, tl.sum(values * others, 1), mask=there)
            lookup, other = following, after
            at += 2
        if of.gradient is not None:
            scatter(of.gradient, sum, row if BY_ROW else run, live, column, COLUMNS, COLUMNS)
        if OPTIMIZER is not None:
            update(
                of.table,
                values,
                state,
                sum,
                row,
                live,
                column,
                step,
                numbers_of(step, number, seed),
                COLUMNS,
                PITCH,
                OPTIMIZER,
                STOCHASTIC,
            )


@triton.jit(do_not_specialize=["runs", "count"])
def long_run_pieces(
    of: tl.tuple,
    pieces: tl.tensor,
    runs: tl.tensor,
    count: tl.tensor,
    LOOKUPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Programs 2w and 2w + 1 do a tile of window w's pieces: of the run at its beginning, of one that begins inside.

    A piece's sum goes to ``pieces`` (2·windows, D), fp32, under the program's number, if it is wanted.
    """
    program, tile = tl.program_id(0), tl.program_id(1)
    first = program // 2 * SPLIT
    run = _run_of(tl.where(program % 2 == 0, first, first + SPLIT - 1), of.starts, runs)
    begin, end = tl.load(of.starts + run), tl.load(of.starts + run + 1)
    if (end - begin > SPLIT) & ((program % 2 == 0) | (begin > first)):
        begin, end = tl.maximum(begin, first), tl.minimum(end, first + SPLIT)
        column = tile * TILE + tl.arange(0, TILE)
        if of.dots is not None:
            only = tl.arange(0, 1)
            values = gathered(of.table, tl.load(of.rows + run + only), only == 0, column, COLUMNS, PITCH)
        sum = tl.zeros([ROWS, TILE], tl.float32)
        while begin < end:
            at = begin + tl.arange(0, ROWS)
            here = at < end
            lookup = tl.load(of.order + at, mask=here, other=0)
            vectors = gathered(of.tokens, lookup // LOOKUPS, here, column, COLUMNS, COLUMNS)
            if pieces is not None:
                weight = tl.load(of.weights + lookup, mask=here, other=0.0).to(tl.float32)
                sum += weight[:, None] * vectors
            if of.dots is not None:
                tl.store(of.dots + tile.to(tl.int64) * count + lookup, tl.sum(values * vectors, 1), mask=here)
            begin += ROWS
        if pieces is not None:
            tl.store(pieces + program.to(tl.int64) * COLUMNS + column, tl.sum(sum, 0), mask=column < COLUMNS)


@triton.jit(do_not_specialize=["runs", "number", "seed"])
def finish_long_runs(
    of: tl.tuple,
    pieces: tl.tensor,
    step: tl.tuple,
    runs: tl.tensor,
    number: tl.tensor,
    seed: tl.tensor,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    BY_ROW: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Program w adds up a tile of the pieces of the long run that begins in window w, if there is one."""
    window = tl.program_id(0)
    first = window * SPLIT
    run = _run_of(first + SPLIT - 1, of.starts, runs)
    begin, end = tl.load(of.starts + run), tl.load(of.starts + run + 1)
    if (end - begin > SPLIT) & (begin >= first):
        column = tl.program_id(1) * TILE + tl.arange(0, TILE)
        windows = tl.cdiv(end, SPLIT) - window
        sum = tl.zeros([ROWS, TILE], tl.float32)
        block = 0
        while block < windows:
            at = block + tl.arange(0, ROWS)
            piece = 2 * (window + at) + ((at == 0) & (begin > first)).to(tl.int32)
            sum += gathered(pieces, piece, at < windows, column, COLUMNS, COLUMNS)
            block += ROWS
        total = tl.sum(sum, 0)[None, :]
        only = tl.arange(0, 1)
        live = only == 0  # the one run that this program has
        row = tl.load(of.rows + run + only).to(tl.int64)
        if of.gradient is not None:
            scatter(of.gradient, total, row if BY_ROW else run + only, live, column, COLUMNS, COLUMNS)
        if OPTIMIZER is not None:
            values = gathered(of.table, row, live, column, COLUMNS, PITCH)
            update(
                of.table,
                values,
                state_of(row, live, column, step, COLUMNS, OPTIMIZER),
                total,
                row,
                live,
                column,
                step,
                numbers_of(step, number, seed),
                COLUMNS,
                PITCH,
                OPTIMIZER,
                STOCHASTIC,
            )


@triton.jit
def _run_of(position: tl.tensor, starts: tl.tensor, runs: tl.tensor) -> tl.tensor:
    """The run that holds a position of the sorted lookups; past their end the last run, which may be an empty one."""
    low, high = tl.zeros_like(position), tl.zeros_like(position) + runs
    while high - low > 1:
        middle = low + (high - low) // 2
        begins_before = tl.load(starts + middle) <= position
        low = tl.where(begins_before, middle, low)
        high = tl.where(begins_before, high, middle)
    return low
