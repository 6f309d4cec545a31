"""What processes give each other, with gradients: routes over torch.distributed, and operations that carry along them.

Letters: P ranks of a group, B tensor entries of this rank, M of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.kernels.stages import stage


class Route(Protocol):
    """A way between ranks, and the way back, which is the way of gradients."""

    def there(self, x: Tensor) -> Tensor: ...

    def back(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Swap:
    """Each rank gets its own part of every rank's entries. Both ways nothing is added up.

    Attributes:
        send: how many entries go to each rank, in the order in which they lie.
        receive: how many come from each rank.
    """

    send: Sequence[int]
    receive: Sequence[int]
    group: dist.ProcessGroup

    def there(self, x: Tensor) -> Tensor:
        return _swapped(x, self.send, self.receive, self.group)

    def back(self, y: Tensor) -> Tensor:
        return _swapped(y, self.receive, self.send, self.group)


@dataclass(frozen=True, slots=True)
class Gather:
    """Each rank gets the entries of all, ``sizes`` of each. Back, all ranks' versions of its own are added up: a
    reduce-scatter.

    ``alike``: the versions are the same, and one is enough; nothing is sent back.
    """

    sizes: Sequence[int]
    group: dist.ProcessGroup
    alike: bool = False

    def there(self, x: Tensor) -> Tensor:
        most = max(self.sizes)
        gathered = x.new_empty(len(self.sizes) * most, *x.shape[1:])
        _all_gather(gathered, _padded(x, most), group=self.group)
        if min(self.sizes) == most:
            return gathered
        parts = zip(gathered.split(most), self.sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    def back(self, y: Tensor) -> Tensor:
        if self.alike:
            return y.split(list(self.sizes))[dist.get_rank(self.group)]
        return reduce_scattered(y, self.sizes, self.group)


# the newer names, where torch has them
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def reduce_scattered(y: Tensor, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """(own, ...): the sum of all ranks' versions of this rank's entries, of y with ``sizes`` entries for each rank.

    gloo's own reduce-scatter is an all-reduce of all of y, which sends twice as much (torch, ProcessGroupGloo.cpp):
    there versions go to their rank, which adds them up.
    """
    return (_sent_and_added if dist.get_backend(group) == "gloo" else _added_on_the_way)(y, sizes, group)


def _sent_and_added(y: Tensor, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    own = sizes[dist.get_rank(group)]
    versions = _swapped(y, sizes, [own] * len(sizes), group)
    return versions.view(len(sizes), own, *y.shape[1:]).sum(0, dtype=_wide(y)).to(y.dtype)


def _added_on_the_way(y: Tensor, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """By the backend's reduce-scatter, which wants as many entries of each rank."""
    most = max(sizes)
    padded = y.contiguous()
    if min(sizes) < most:
        padded = torch.cat([_padded(part, most) for part in y.split(list(sizes))])
    added = y.new_empty(most, *y.shape[1:])
    _reduce_scatter(added, padded, group=group)
    return added[: sizes[dist.get_rank(group)]]


def _padded(x: Tensor, most: int) -> Tensor:
    """(most, ...) of x, filled up with zeros."""
    return x.contiguous() if len(x) == most else torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])


def _swapped(x: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    got = x.new_empty(sum(receive), *x.shape[1:])
    dist.all_to_all_single(got, x.contiguous(), list(receive), list(send), group=group)
    return got


def _wide(x: Tensor) -> torch.dtype:
    """What is summed in."""
    return torch.promote_types(x.dtype, torch.float32)


def there(x: Tensor, route: Route, name: str, gradient: str | None = None) -> Tensor:
    """x carried along a route as the stage ``name``; its gradient comes back as the stage ``gradient``, or the same."""
    return _Carried.apply(x, route, name, gradient or name)


def back(y: Tensor, route: Route, name: str, gradient: str | None = None) -> Tensor:
    """y carried back along a route; its gradient goes there."""
    return there(y, _Return(route), name, gradient)


@dataclass(frozen=True, slots=True)
class _Return:
    """A route the other way round."""

    route: Route

    def there(self, x: Tensor) -> Tensor:
        return self.route.back(x)

    def back(self, y: Tensor) -> Tensor:
        return self.route.there(y)


class _Carried(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, route: Route, name: str, gradient: str) -> Tensor:
        ctx.route, ctx.name = route, gradient
        with stage(name):
            return route.there(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        with stage(ctx.name):
            return ctx.route.back(upstream[0]), None, None, None


def lookups_there(rows: Tensor, weights: Tensor, route: Route, name: str, back_name: str) -> tuple[Tensor, Tensor]:
    """Rows and fp32 weights, of one shape, along a route in one message, rows as int32 where they are.

    The gradients of weights come back as the stage ``back_name``.
    """
    return _LookupsThere.apply(rows, weights.float(), route, name, back_name)


class _LookupsThere(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weights: Tensor, route: Route, name: str, back_name: str
    ) -> tuple[Tensor, Tensor]:
        ctx.route, ctx.name = route, back_name
        width = rows[0].numel() if len(rows) else rows.shape[1:].numel()
        words = [part.reshape(len(rows), width).view(torch.int32) for part in (rows, weights)]
        with stage(name):
            packed = route.there(torch.cat(words, dim=1))
        of_rows, of_weights = packed.split([part.shape[1] for part in words], dim=1)
        shape = (len(packed), *rows.shape[1:])
        got = of_rows.contiguous().view(rows.dtype).view(shape)
        ctx.mark_non_differentiable(got)
        return got, of_weights.contiguous().view(torch.float32).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        with stage(ctx.name):
            return None, ctx.route.back(upstream[1]), None, None, None


def summed(x: Tensor, group: dist.ProcessGroup, name: str) -> Tensor:
    """The sum of all ranks' x. Each rank computes the same from it, so the gradient is as it comes."""
    return _Summed.apply(x, group, name)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, name: str) -> Tensor:
        return total(x, group, name)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream[0], None, None


def gradient_summed(x: Tensor, group: dist.ProcessGroup, name: str) -> Tensor:
    """x, of which each rank uses a part. Its gradient is the sum of what they find."""
    return _GradientSummed.apply(x, group, name)


class _GradientSummed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, name: str) -> Tensor:
        ctx.group, ctx.name = group, name
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return total(upstream[0], ctx.group, ctx.name), None, None


def total(x: Tensor, group: dist.ProcessGroup, name: str) -> Tensor:
    """A new tensor, the sum of all ranks' x."""
    found = sendable(x.detach(), group).clone(memory_format=torch.contiguous_format)
    with stage(name):
        dist.all_reduce(found, group=group)
    return found.to(x.device)


def sendable(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """x where the group can send it: a table may be in the host's memory, and NCCL reads a device's."""
    return x.cuda() if dist.get_backend(group) == "nccl" and not x.is_cuda else x


def sizes_of_all(size: int, group: dist.ProcessGroup, device: torch.device, name: str) -> list[int]:
    """Every rank's ``size``, which says how much is coming. On a GPU the host must wait for it."""
    own = sendable(torch.tensor([size], device=device), group)
    found = own.new_empty(dist.get_world_size(group))
    with stage(name):
        _all_gather(found, own, group=group)
    return found.tolist()
