"""Reads rows and does nothing else: the most that a GPU can do, to compare other passes over rows with.

Letters: M rows that are read, W words of a row.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernel itself; its annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.launch import launch
from membench.layers.kernels.triton.tiles import Tile, ceil_div

_WORDS = 4096  # a program of 4 warps has 16 KiB in flight: 32 words per thread


def read_rows(table: Tensor, rows: Tensor) -> Tensor:
    """All bits of the rows (M,) of a table (N, D), combined by exclusive or.

    Rows are read as words of 32 bits, or of 8 bits if a row is not a multiple of 32 bits.

    Returns:
        One word of each program; their exclusive or is that of all words.
    """
    assert table.is_contiguous()
    row_bytes = table.shape[1] * table.element_size()
    words = table.view(torch.int8)
    if row_bytes % torch.int32.itemsize == 0:
        words = words.view(torch.int32)
    width = min(triton.next_power_of_2(words.shape[1]), 1024)
    tile = Tile(_WORDS // width, width, 4)
    parts = tile.parts(words.shape[1])
    combined = words.new_empty(ceil_div(len(rows), tile.rows) * parts)
    if len(combined):
        arguments = (words, rows.contiguous(), combined, len(rows))
        launch(table, _read_rows, (len(combined),), *arguments, WORDS=words.shape[1], **tile.constants)
    return combined


@triton.jit
def _read_rows(
    table: tl.tensor,
    rows: tl.tensor,
    combined: tl.tensor,
    count: tl.tensor,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A program reads one tile of some rows; tiles of the same rows are neighbours."""
    parts = tl.cdiv(WORDS, TILE)
    at = (tl.program_id(0) // parts) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % parts * TILE + tl.arange(0, TILE)
    row = tl.load(rows + at, mask=at < count, other=0).to(tl.int64)
    inside = (at < count)[:, None] & (column < WORDS)[None, :]
    words = tl.load(table + row[:, None] * WORDS + column[None, :], mask=inside, other=0)
    tl.store(combined + tl.program_id(0), tl.xor_sum(tl.reshape(words, [ROWS * TILE]), 0))
