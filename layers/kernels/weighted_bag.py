"""Weighted sums of table rows, their dot products with tokens, and the gradients of just the rows read.

The two operations are each other's gradient, so forward and backward need no more than these:

    bag    y_b  = sum_l w_bl · row_bl      dw_bl = row_bl · dy_b,  d(row) = sum over its lookups of w_bl · dy_b
    dots   s_bl = row_bl · x_b             dx_b  = sum_l ds_bl · row_bl,  d(row) = sum of ds_bl · x_b

Letters: N rows, D columns, B tokens, L lookups a token, U distinct rows among the B·L.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Runs:
    """Lookups sorted by row: ``rows`` (U,) ascending, run u being ``order[starts[u]:starts[u + 1]]``."""

    rows: Tensor
    starts: Tensor
    order: Tensor


class Lookups:
    """Which rows each token reads, (B, L); sorted by row once, when a gradient first needs it."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @cached_property
    def runs(self) -> Runs:
        return find_runs(self.rows.flatten())


def find_runs(rows: Tensor) -> Runs:
    """The runs of equal rows; lookups of one row stay in order, so that sums over a run are reproducible."""
    ascending, order = torch.sort(rows, stable=True)
    begins = torch.ones_like(ascending, dtype=torch.bool)
    torch.ne(ascending[1:], ascending[:-1], out=begins[1:])
    starts = begins.nonzero()[:, 0]
    return Runs(ascending[starts], starts, order)


def weighted_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(B, D): the sum over l of weights (B, L) times table[rows]; rows (B, L).

    Sums are formed in fp32. A 16-bit table rounds the weights to its dtype, an error per
    term no larger than that of rounding the result.
    """
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.to(table.dtype))


def row_dots(table: Tensor, lookups: Lookups, tokens: Tensor) -> Tensor:
    """(B, L) fp32: the rows that a token reads, each times the token's own vector of tokens (B, D)."""
    if table.device.type == "cpu" and table.dtype == torch.float32:
        return _row_dots_in_order(table, lookups, tokens)
    rows, columns = lookups.rows, table.shape[1]
    dots = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    step = max(1, _gathered_elements(table.device) // max(1, rows.shape[1] * columns))
    for first in range(0, rows.shape[0], step):
        part = slice(first, first + step)
        gathered = table.index_select(0, rows[part].flatten()).float().view(-1, rows.shape[1], columns)
        torch.sum(gathered.mul_(tokens[part, None].float()), dim=-1, out=dots[part])
    return dots


def _row_dots_in_order(table: Tensor, lookups: Lookups, tokens: Tensor) -> Tensor:
    """Without gathering anything, in the order of rows, which a CPU's caches and page tables like best.

    The operator is the one by which torch differentiates ``embedding_bag``. It rounds its
    result to the table's dtype, hence fp32 only; of its arguments for mean bags it uses none.
    """
    order, shape = lookups.runs.order, lookups.rows.shape
    token = order // shape[1]
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        tokens, table, lookups.rows.flatten()[order], lookups.runs.starts, token, 0
    )
    return torch.empty_like(dots).scatter_(0, order, dots).view(shape)


def _gathered_elements(device: torch.device) -> int:
    """Elements gathered at a time: what the caches of a CPU hold, or enough to fill another device.

    Gathering all L·D at once would write them to memory and read them back.
    """
    return 2**19 if device.type == "cpu" else 2**24


def row_gradient(runs: Runs, weights: Tensor, tokens: Tensor) -> Tensor:
    """(U, D): for each distinct row the sum, over its lookups, of weights (B, L) times tokens (B, D).

    Itself a weighted bag, over the tokens: no scatter, no atomics, the same bits every time.
    """
    token = runs.order // weights.shape[1]
    return functional.embedding_bag(
        token, tokens, runs.starts, mode="sum", per_sample_weights=weights.flatten()[runs.order].to(tokens.dtype)
    )
