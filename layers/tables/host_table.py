"""Value rows in the host's memory, for a layer on another device: there can be more rows than the device can hold.

Letters: N rows, D columns, B tokens, L lookups a token, U distinct rows read.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.initialize import Place
from membench.layers.kept_dtype import dtype_after
from membench.layers.kernels.lookups import Lookups, Runs
from membench.layers.kernels.row_passes import row_backward, row_dots, weighted_bag
from membench.layers.kernels.uncompiled import uncompiled
from membench.layers.tables.pinned import RowCopier, device_view_of, on_host, pin
from membench.layers.tables.value_table import RowGradient, Use, ValueTable

Way = Literal["direct", "staged"]
WAYS: tuple[Way, ...] = ("direct", "staged")
_TRIALS = 3


class HostTable(ValueTable):
    """A table on the host, read from ``device`` in one of two ways.

    ``direct``: the device's kernels read the rows over the bus, once per lookup. ``staged``: the host gathers the
    distinct rows, and only a copy of those crosses the bus. Which is faster depends on how often rows repeat, on the
    bus and on the host's cores. If ``way`` is not given, the first use times both (with a backward pass, if there
    will be one) and takes the faster; ``way_ms`` keeps both times.

    The rows' gradient is computed on the device and copied to the host, where the rows are updated. Weight, gradient
    and optimizer state stay on the host unchanged when the layer is moved or cast. The results are of ``dtype``,
    which a cast (``.half()``) changes.

    Raises:
        RuntimeError: the host's memory cannot be pinned.
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
        way: Way | None = None,
    ) -> None:
        if generator is not None and generator.device.type != "cpu":  # it cannot fill host memory
            drawn = torch.randint(2**62, (), device=generator.device, generator=generator)
            generator = torch.Generator().manual_seed(int(drawn))
        super().__init__(num_rows, columns, dtype=dtype, std=std, generator=generator, place=place)
        self.device, self.dtype = torch.device(device), dtype
        self.way: Way | None = way
        self.way_ms: dict[Way, float] = {}
        self._access: _DeviceAccess | None = None
        self._device_access()

    @property
    def device_view(self) -> Tensor:
        """The weight as a tensor that kernels of the device can read."""
        return self._device_access().device_view

    def _device_access(self) -> "_DeviceAccess":
        """Made again if the weight has moved: in a copy of this table, or after its state was loaded by assignment."""
        if self._access is None or self._access.address != self.weight.data_ptr():
            self._access = _DeviceAccess(self.weight.detach(), self.device)
        return self._access

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_access": None}

    # A compiler cannot follow what waits for a device, or leaves a gradient in the table.
    @uncompiled("the host brings rows within reach, and keeps their gradient")
    def bag(self, lookups: Lookups, weights: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _Bag.apply(self, lookups, weights, self._anchor).to(self.dtype)
        near, at = self.reach(lookups)
        return weighted_bag(near, at.rows, weights).to(self.dtype)

    @uncompiled("the host brings rows within reach, and keeps their gradient")
    def dots(self, lookups: Lookups, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self.weight.dtype)
        if torch.is_grad_enabled():
            return _Dots.apply(self, lookups, tokens, self._anchor)
        near, at = self.reach(lookups)
        return row_dots(near, at.rows, tokens)

    @torch.no_grad()
    def reach(self, lookups: Lookups, *, backward: bool = False) -> tuple[Tensor, Lookups]:
        """A table that the device can read, and the lookups in it. ``backward``: a trial also times a backward pass."""
        if self.way is None:
            self.way_ms = {way: self._trial_ms(way, lookups, backward) for way in WAYS}
            self.way = min(WAYS, key=lambda way: self.way_ms[way])
        return self._reach(self.way, lookups)

    def _reach(self, way: Way, lookups: Lookups) -> tuple[Tensor, Lookups]:
        if way == "direct":
            return self.device_view, lookups
        runs = lookups.exact_runs
        rows = on_host(runs.rows)
        copier = self._device_access().copier
        near = self.weight.index_select(0, rows) if copier is None else copier.copy(rows)
        return near, _renumbered(runs, lookups.rows.shape)

    def _trial_ms(self, way: Way, lookups: Lookups, backward: bool) -> float:
        """The fastest of several bags, with their gradients if ``backward``. Each starts with unsorted lookups."""
        place = {"dtype": torch.float32, "device": lookups.rows.device}
        weights = torch.ones(lookups.rows.shape, **place)
        tokens = torch.ones(len(weights), self.weight.shape[1], **place)
        seconds = []
        for _ in range(_TRIALS):
            begin = time.perf_counter()
            near, at = self._reach(way, Lookups(lookups.rows, lookups.num_rows))
            weighted_bag(near, at.rows, weights)
            if backward:
                row_backward(near, at.exact_runs, weights, tokens, gradient=True, dots=True)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - begin)
        return 1e3 * min(seconds)

    def settle(self) -> None:
        if self.way == "direct" and self.device.type == "cuda":  # kernels may still read this memory
            torch.cuda.synchronize(self.device)

    def take_gradient(self, runs: Runs, gradient: Tensor) -> None:
        """A backward pass calls it with the gradient (U, D) of the rows of ``runs``."""
        rows, values = on_host(runs.rows), on_host(gradient)
        if self._consumer is None:
            self.accumulate(RowGradient(rows, values))
        elif len(rows):  # as a use by U tokens that read one row each
            ones = torch.ones(len(rows), 1, dtype=torch.float32)
            self._consumer(Use(Lookups(rows[:, None], len(self.weight)), ones, values, dots=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """``layer.to(device)`` does not move the table; a cast changes only the dtype of its results."""
        del recurse
        self.dtype = dtype_after(fn, self.dtype)
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, device={self.device}, way={self.way}"


class _DeviceAccess:
    """How a device reads rows of a weight (N, D) on the host: pinned memory, and buffers for copies."""

    def __init__(self, weight: Tensor, device: torch.device) -> None:
        self.address = weight.data_ptr()
        self.device_view, self.copier = weight, None
        if device.type == "cuda":
            pin(weight)
            self.device_view, self.copier = device_view_of(weight, device), RowCopier(weight, device)


def _renumbered(runs: Runs, shape: torch.Size) -> Lookups:
    """The same lookups, in a table that holds only the rows of exact ``runs``."""
    count = len(runs.rows)
    runs = Runs(torch.arange(count, dtype=torch.int32, device=runs.rows.device), runs.starts, runs.order)
    run = torch.repeat_interleave(runs.rows, runs.starts.diff(), output_size=len(runs.order))
    at = Lookups(torch.empty_like(run).scatter_(0, runs.order.long(), run).view(shape), count)
    at.runs = at.exact_runs = runs  # sorted already
    return at


def _save(ctx: Any, table: HostTable, lookups: Lookups, other: Tensor) -> tuple[Tensor, Lookups]:
    """Keeps what a backward pass needs, also staged rows, so that they cross the bus only once."""
    near, at = table.reach(lookups, backward=True)
    ctx.table, ctx.lookups, ctx.at = table, lookups, at
    ctx.save_for_backward(other, None if near is table.device_view else near)
    return near, at


def _saved(ctx: Any) -> tuple[Tensor, Tensor]:
    """(the other saved tensor, the table that the device can read)."""
    other, near = ctx.saved_tensors
    return other, ctx.table.device_view if near is None else near


def _leave_gradient(ctx: Any, near: Tensor, weights: Tensor, tokens: Tensor, *, dots: bool) -> Tensor | None:
    """Gives the table the gradient of its rows; returns their dots, if they are needed."""
    gradient, found = row_backward(near, ctx.at.exact_runs, weights, tokens.contiguous(), gradient=True, dots=dots)
    assert gradient is not None
    ctx.table.take_gradient(ctx.lookups.exact_runs, gradient)
    return found


class _Bag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: HostTable, lookups: Lookups, weights: Tensor, anchor: Tensor) -> Tensor:
        near, at = _save(ctx, table, lookups, weights)
        return weighted_bag(near, at.rows, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (weights, near) = upstream, _saved(ctx)
        dots = _leave_gradient(ctx, near, weights, dy, dots=ctx.needs_input_grad[2])
        return None, None, None if dots is None else dots.to(weights.dtype), None


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: HostTable, lookups: Lookups, tokens: Tensor, anchor: Tensor) -> Tensor:
        near, at = _save(ctx, table, lookups, tokens)
        return row_dots(near, at.rows, tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (ddots,), (tokens, near) = upstream, _saved(ctx)
        # first, because taking the gradient may update the rows
        dx = weighted_bag(near, ctx.at.rows, ddots) if ctx.needs_input_grad[2] else None
        _leave_gradient(ctx, near, ddots, tokens, dots=False)
        return None, None, None if dx is None else dx.to(tokens.dtype), None
