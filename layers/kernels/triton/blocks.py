"""Blocks of a program: some columns of some rows, read from and written to where the rows lie.

Letters: R rows, C columns of a block; D columns of the matrix.
"""

import triton
import triton.language as tl


@triton.jit
def gathered(
    matrix: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    column: tl.tensor,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
) -> tl.tensor:
    """(R, C) fp32: columns (C,) of rows (R,), zero where ``here`` (R,) is false and past the last of D columns.

    Rows lie so many elements, the pitch, behind each other; a table has more than 2^31 of them.
    """
    inside = here[:, None] & (column < COLUMNS)[None, :]
    place = row.to(tl.int64)[:, None] * PITCH + column[None, :]
    return tl.load(matrix + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def scatter(
    matrix: tl.tensor,
    block: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    column: tl.tensor,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
) -> None:
    """Writes a block (R, C), in the matrix's dtype, to where ``gathered`` would read it."""
    inside = here[:, None] & (column < COLUMNS)[None, :]
    place = row.to(tl.int64)[:, None] * PITCH + column[None, :]
    tl.store(matrix + place, block, mask=inside)
