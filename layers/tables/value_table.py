"""The value rows of a memory layer, which several layers can share, and the gradients of the rows that were read.

Letters: N rows, D columns, B tokens, L lookups a token, U distinct rows read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from membench.layers.initialize import Place, fill_normal_
from membench.layers.kernels.lookups import Lookups, Runs, find_runs
from membench.layers.kernels.pages import allocate, on_huge_pages
from membench.layers.kernels.row_passes import row_backward, row_dots, weighted_bag
from membench.layers.kernels.uncompiled import uncompiled


@dataclass(frozen=True, slots=True)
class RowGradient:
    """The gradient of the rows that were read: ``rows`` (U,) ascending and distinct, ``values`` (U, D)."""

    rows: Tensor
    values: Tensor

    def plus(self, other: "RowGradient", num_rows: int) -> "RowGradient":
        """The sum of both gradients, for a table of ``num_rows`` rows."""
        values = torch.cat([self.values, other.values])
        runs = find_runs(torch.cat([self.rows, other.rows]), num_rows).exact()
        ones = values.new_ones(len(values), 1)
        summed, _ = row_backward(values, runs, ones, values, gradient=True, dots=False)
        assert summed is not None
        return RowGradient(runs.rows, summed)

    def to_dense(self, num_rows: int) -> Tensor:
        """(N, D), zero where no row was read."""
        dense = self.values.new_zeros(num_rows, self.values.shape[1])
        dense[self.rows] = self.values
        return dense


def _exact(runs: Runs, values: Tensor) -> RowGradient:
    """The gradient from runs and their sums, without empty runs."""
    rows = runs.exact().rows
    return RowGradient(rows, values[: len(rows)])


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a table in a backward pass, from which its rows' gradients follow.

    d(row) is the sum, over the row's lookups, of weights (B, L) times tokens (B, D). With ``dots``, the products of
    the rows with these tokens are needed too: they are the gradient of a bag's weights.
    """

    lookups: Lookups
    weights: Tensor
    tokens: Tensor
    dots: bool


class ValueTable(nn.Module):
    """N rows of D columns. A table can be given to several layers, which then share its rows.

    ``weight.grad`` stays None, because a dense gradient of N·D numbers would cost more than the rest of a step. A
    backward pass adds to ``gradient``, which holds only the rows that were read; set it to None between steps. A
    copy of the table has no gradient, as torch's copies have no ``.grad``. ``huge_pages`` tells whether the memory
    really lies on huge pages; random rows are read faster there. A shard is drawn as its ``place`` of the whole table.
    """

    def __init__(
        self,
        num_rows: int,
        columns: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        std: float = 1.0,
        generator: torch.Generator | None = None,
        place: Place | None = None,
    ) -> None:
        super().__init__()
        weight = fill_normal_(allocate(num_rows, columns, dtype, torch.device(device)), std, generator, place)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._gradient: RowGradient | tuple[Runs, Tensor] | None = None
        self._consumer: Callable[[Use], Tensor | None] | None = None
        # of a column shard: gives the mean over all shards of a number of each row
        self.over_columns: Callable[[Tensor], Tensor] | None = None
        # Empty. It makes autograd call the backward even if no other input of the table needs a gradient.
        self._anchor = torch.empty(0, requires_grad=True)

    @property
    def huge_pages(self) -> bool:
        """Asks the system each time, because the memory of a cast table is another one."""
        return self.weight.device.type == "cpu" and on_huge_pages(self.weight)

    def bag(self, lookups: Lookups, weights: Tensor) -> Tensor:
        """(B, D), of the table's dtype: the sum over a token's L lookups of weights (B, L) times rows."""
        if torch.is_grad_enabled():
            return _bag(self, lookups, weights)
        return weighted_bag(self.weight, lookups.rows, weights)

    def dots(self, lookups: Lookups, tokens: Tensor) -> Tensor:
        """(B, L) fp32: the rows a token reads, each times the token's vector of tokens (B, D) in the table's dtype."""
        tokens = tokens.to(self.weight.dtype)
        if torch.is_grad_enabled():
            return _dots(self, lookups, tokens)
        return row_dots(self.weight, lookups.rows, tokens)

    @property
    def gradient(self) -> RowGradient | None:
        """The gradient of the rows that were read since it was last set to None.

        On a GPU only this makes the host wait, to learn how many rows there are; a backward pass does not wait.
        """
        if isinstance(self._gradient, tuple):
            self._gradient = _exact(*self._gradient)
        return self._gradient

    @gradient.setter
    def gradient(self, gradient: RowGradient | None) -> None:
        self._gradient = gradient

    @property
    def held_gradient(self) -> RowGradient | tuple[Runs, Tensor] | None:
        """What ``gradient`` is made of, without waiting for a GPU; set again where that memory is written anew."""
        return self._gradient

    @held_gradient.setter
    def held_gradient(self, gradient: RowGradient | tuple[Runs, Tensor] | None) -> None:
        self._gradient = gradient

    @property
    def has_gradient(self) -> bool:
        """Whether there is a gradient. Does not wait for a GPU."""
        return self._gradient is not None

    def settle(self) -> None:
        """Waits until nothing reads the rows any more, where the device does not order that itself. Updates call it."""

    def accumulate(self, gradient: RowGradient) -> None:
        """Adds the gradient of one more use: by another layer that shares the table, or in another backward pass."""
        before = self.gradient
        self.gradient = gradient if before is None else before.plus(gradient, len(self.weight))

    @contextmanager
    def uses_handed_to(self, consumer: Callable[[Use], Tensor | None]) -> Iterator[None]:
        """Inside, a backward pass adds no gradient. It hands each use to ``consumer``, which returns the use's dots."""
        before, self._consumer = self._consumer, consumer
        try:
            yield
        finally:
            self._consumer = before

    def take(self, use: Use) -> Tensor | None:
        """A backward pass calls it with each use. Returns the use's dots (B, L), if they are needed."""
        if self._consumer is not None:
            return self._consumer(use)
        runs = use.lookups.runs
        gradient, dots = row_backward(self.weight, runs, use.weights, use.tokens, gradient=True, dots=use.dots)
        assert gradient is not None
        if self._gradient is None:
            self._gradient = runs, gradient
        else:
            self.accumulate(_exact(runs, gradient))
        return dots

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file gets: no gradient, and no consumer of uses, which would update this table."""
        return {**self.__dict__, "_gradient": None, "_consumer": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves or casts the gradient too, as torch does."""
        super()._apply(fn, recurse)
        if (gradient := self.gradient) is not None:
            values = fn(gradient.values)
            self.gradient = RowGradient(gradient.rows.to(values.device), values)
        return self

    def extra_repr(self) -> str:
        rows, columns = self.weight.shape
        return f"{rows}, {columns}, dtype={self.weight.dtype}, huge_pages={self.huge_pages}"


# A backward pass stores the rows' gradient in the table and does not return it to autograd, which expects a dense one.
# A compiler cannot follow that. It compiles what comes before and after, and Python runs this part.
@uncompiled("a table keeps the gradient of its rows itself")
def _bag(table: ValueTable, lookups: Lookups, weights: Tensor) -> Tensor:
    return _Bag.apply(table, lookups, weights, table._anchor)


@uncompiled("a table keeps the gradient of its rows itself")
def _dots(table: ValueTable, lookups: Lookups, tokens: Tensor) -> Tensor:
    return _Dots.apply(table, lookups, tokens, table._anchor)


class _Bag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: ValueTable, lookups: Lookups, weights: Tensor, anchor: Tensor) -> Tensor:
        ctx.table, ctx.lookups = table, lookups
        ctx.save_for_backward(weights)
        return weighted_bag(table.weight, lookups.rows, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (weights,) = upstream, ctx.saved_tensors
        dots = ctx.table.take(Use(ctx.lookups, weights, dy.contiguous(), ctx.needs_input_grad[2]))
        return None, None, None if dots is None else dots.to(weights.dtype), None


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: ValueTable, lookups: Lookups, tokens: Tensor, anchor: Tensor) -> Tensor:
        ctx.table, ctx.lookups = table, lookups
        ctx.save_for_backward(tokens)
        return row_dots(table.weight, lookups.rows, tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (ddots,), (tokens,) = upstream, ctx.saved_tensors
        # before the table takes the use: it may update the rows
        dx = weighted_bag(ctx.table.weight, ctx.lookups.rows, ddots) if ctx.needs_input_grad[2] else None
        ctx.table.take(Use(ctx.lookups, ddots, tokens.contiguous(), dots=False))
        return None, None, None if dx is None else dx.to(tokens.dtype), None
