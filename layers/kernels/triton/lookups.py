"""Runs of equal rows on a GPU: torch's own sort, which is a radix sort there, and two passes over what it sorted.

The first of a run differs from the lookup before it. Each program of the first pass counts those of a block. Each
program of the second adds up the counts of the blocks before its own, so that it knows the numbers of its runs, and
of all blocks, so that it knows U, from which on its part of the results is filled up. (G. E. Blelloch, "Prefix Sums and
Their Applications", 1990, section 1.4.)

Letters: M lookups, U distinct rows.
"""
# pyright: reportArgumentType=false, reportCallIssue=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.torch.lookups import narrowed
from membench.layers.kernels.triton.launch import launch

_BLOCK = 1024  # lookups of a program
_WARPS = 4


def find_runs(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, starts, order) of ``layers.kernels.lookups.Runs``, padded to M runs unless kernels are interpreted."""
    ascending, order = torch.sort(narrowed(rows, num_rows), stable=True)
    distinct, starts, narrow_order = compacted(ascending, order, rows.dtype)
    if rows.device.type == "cpu":
        count = int((starts[1:] > starts[:-1]).sum())
        distinct, starts = distinct[:count], starts[: count + 1]
    return distinct, starts, narrow_order


def compacted(ascending: Tensor, order: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of sorted rows (M,): M rows of ``dtype``, starts (M + 1,) and order (M,), int32; those past U are empty.

    Args:
        order: (M,) int64, where the sorted rows were.
    """
    count = len(ascending)
    blocks = triton.cdiv(count + 1, _BLOCK)  # with the end of the last run, which is written as a start
    int32 = {"dtype": torch.int32, "device": ascending.device}
    firsts = torch.empty(blocks, **int32)
    runs = torch.empty(count, dtype=dtype, device=ascending.device)
    starts, narrow_order = torch.empty(count + 1, **int32), torch.empty(count, **int32)
    constants = {"count": count, "BLOCK": _BLOCK, "num_warps": _WARPS}
    launch(ascending, _count_firsts, (blocks,), ascending, firsts, **constants)
    arguments = (ascending, order, firsts, runs, starts, narrow_order)
    launch(ascending, _place_firsts, (blocks,), *arguments, blocks=blocks, **constants)
    return runs, starts, narrow_order


@triton.jit
def _firsts(ascending: tl.tensor, row: tl.tensor, place: tl.tensor, count: tl.tensor) -> tl.tensor:
    """Whether a row at a place (G,) is the first of its run."""
    before = tl.load(ascending + place - 1, mask=(place > 0) & (place < count), other=0)
    return (place < count) & ((place == 0) | (row != before))


@triton.jit(do_not_specialize=["count"])
def _count_firsts(ascending: tl.tensor, firsts: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(ascending + place, mask=place < count, other=0)
    tl.store(firsts + tl.program_id(0), tl.sum(_firsts(ascending, row, place, count).to(tl.int32), 0))


@triton.jit(do_not_specialize=["count", "blocks"])
def _place_firsts(
    ascending: tl.tensor,
    order: tl.tensor,
    firsts: tl.tensor,
    runs: tl.tensor,
    starts: tl.tensor,
    narrow_order: tl.tensor,
    count: tl.tensor,
    blocks: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    counted, counted_before = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    block = 0
    while block < blocks:
        at = block + tl.arange(0, BLOCK)
        here = tl.load(firsts + at, mask=at < blocks, other=0)
        counted += here
        counted_before += tl.where(at < program, here, 0)
        block += BLOCK
    distinct, run = tl.sum(counted, 0), tl.sum(counted_before, 0)

    place = program * BLOCK + tl.arange(0, BLOCK)
    here = place < count
    row = tl.load(ascending + place, mask=here, other=0)
    tl.store(narrow_order + place, tl.load(order + place, mask=here, other=0).to(tl.int32), mask=here)
    first = _firsts(ascending, row, place, count)
    run += tl.cumsum(first.to(tl.int32), 0) - 1
    tl.store(runs + run, row, mask=first)
    tl.store(starts + run, place, mask=first)
    tl.store(runs + place, tl.zeros_like(row), mask=here & (place >= distinct))
    tl.store(starts + place, tl.zeros_like(place) + count, mask=(place <= count) & (place >= distinct))
