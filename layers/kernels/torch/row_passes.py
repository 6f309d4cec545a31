"""Row passes by torch's own calls. Shapes and meaning: ``layers.kernels.row_passes``.

Letters: N rows, D columns, B tokens, L lookups a token, U distinct rows among the B·L.
"""

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.kernels.lookups import Runs
from membench.layers.kernels.row_update import RowState, RowStep
from membench.layers.kernels.torch.row_update import update_rows_

__all__ = ["row_backward", "row_backward_update_", "row_dots", "update_rows_", "weighted_bag"]


def weighted_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sums are formed in fp32. A 16-bit table rounds the weights to its dtype, an error per
    term no larger than that of rounding the result.
    """
    if not rows.numel():
        return table.new_zeros(rows.shape[0], table.shape[1])
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.to(table.dtype))


def row_dots(table: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """A part of the tokens at a time: all rows gathered at once would not stay in the caches."""
    columns = table.shape[1]
    dots = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    step = max(1, _gathered_elements(table.device) // max(1, rows.shape[1] * columns))
    for first in range(0, rows.shape[0], step):
        part = slice(first, first + step)
        gathered = table.index_select(0, rows[part].flatten()).float().view(-1, rows.shape[1], columns)
        torch.sum(gathered.mul_(tokens[part, None].float()), dim=-1, out=dots[part])
    return dots


def _gathered_elements(device: torch.device) -> int:
    """As much as the caches of a CPU hold, or enough to keep another device busy."""
    return 2**19 if device.type == "cpu" else 2**24


def row_backward(
    table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor, *, by_row: bool = False, gradient: bool, dots: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient is itself a weighted bag, over the tokens: no scatter, no atomics, the same bits every time."""
    lookups = weights.shape[1]
    summed = _summed(runs, weights, tokens) if gradient else None
    if by_row and summed is not None:
        summed = _where_rows_lie(summed, runs, len(table))
    if not dots:
        return summed, None
    rows, order = runs.rows, runs.order.long()
    run = torch.arange(len(rows), device=rows.device)
    run = torch.repeat_interleave(run, runs.starts.diff(), output_size=len(order))
    row = torch.empty(weights.numel(), dtype=rows.dtype, device=rows.device).scatter_(0, order, rows[run])
    return summed, row_dots(table, row.view(-1, lookups), tokens)


def _summed(runs: Runs, weights: Tensor, tokens: Tensor) -> Tensor:
    if not len(runs.order):
        return tokens.new_zeros(len(runs.rows), tokens.shape[1])
    token = runs.order // weights.shape[1]
    scale = weights.flatten()[runs.order].to(tokens.dtype)
    return functional.embedding_bag(
        token, tokens, runs.starts, mode="sum", per_sample_weights=scale, include_last_offset=True
    )


def _where_rows_lie(summed: Tensor, runs: Runs, count: int) -> Tensor:
    """(N, D): those of empty runs, which only a GPU has, go to one unused place."""
    place = torch.where(runs.starts[1:] > runs.starts[:-1], runs.rows, count).long()
    return summed.new_zeros(count + 1, summed.shape[1]).index_copy_(0, place, summed)[:count]


def row_backward_update_(
    table: Tensor, state: RowState, runs: Runs, weights: Tensor, tokens: Tensor, step: RowStep, *, dots: bool
) -> Tensor | None:
    """In two passes; the rows' gradient is written to memory between them. Empty runs on a GPU change nothing."""
    summed, found = row_backward(table, runs, weights, tokens, gradient=True, dots=dots)
    assert summed is not None
    rows, touched = runs.rows, runs.starts[1:] > runs.starts[:-1]
    if rows.device.type != "cpu":
        rows, summed = rows[touched], summed[touched]
    update_rows_(table, state, rows, summed, step)
    return found
