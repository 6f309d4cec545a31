"""Runs of equal rows, by torch's sort.

Letters: M lookups, U distinct rows.
"""

import torch
from torch import Tensor


def find_runs(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, starts, order) of ``layers.kernels.lookups.Runs``."""
    ascending, order = torch.sort(narrowed(rows, num_rows), stable=True)
    begins = torch.ones_like(ascending, dtype=torch.bool)
    torch.ne(ascending[1:], ascending[:-1], out=begins[1:])
    ascending, order = ascending.to(rows.dtype), order.int()
    if rows.device.type == "cpu":
        first = begins.nonzero()[:, 0]
        return ascending[first], torch.cat([first, first.new_tensor([len(rows)])]).int(), order
    return *_padded(ascending, begins), order


def narrowed(rows: Tensor, num_rows: int) -> Tensor:
    """Row numbers in the narrowest dtype that holds them: a GPU's radix sort makes one pass per byte."""
    for dtype in (torch.int8, torch.int16, torch.int32):
        if num_rows <= torch.iinfo(dtype).max + 1:
            return rows.to(dtype)
    return rows


def _padded(ascending: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """M rows, starts (M + 1,): the runs past U are empty, so that the host need not wait to learn U."""
    count = len(ascending)
    run = begins.cumsum(0) - 1
    place = torch.where(begins, run, count + 1)  # all but the first of a run go to one unused place
    starts = torch.full((count + 2,), count, dtype=torch.int32, device=ascending.device)
    starts.scatter_(0, place, torch.arange(count, dtype=torch.int32, device=ascending.device))
    rows = ascending.new_zeros(count + 2).scatter_(0, place, ascending)
    return rows[:count], starts[: count + 1]
