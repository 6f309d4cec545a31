"""A router's choice of experts by a few kernels, where torch's calls would be thirty: on a GPU.

Scores are the softmax or the sigmoid of logits. A token's K best experts are chosen, of equal scores the lower one
first; a bias moves the choice and not the weights. What balancing asks for comes from the same pass: each expert's
load, and its shares of all tokens' scores (arXiv 2101.03961, eq. 5-6).

Letters: B tokens, E experts, K experts a token.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.kernels.paths import part_of_another, path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient

_MOST_EXPERTS = 2**12  # whose scores a program holds


class Totals(NamedTuple):
    """What experts were given of all tokens.

    Attributes:
        shares: (E,) sums of scores, each token's over their sum.
        load: (E,) int64 tokens that chose each.
    """

    shares: Tensor
    load: Tensor


class Routed(NamedTuple):
    """A choice.

    Attributes:
        chosen: (B, K) int64 experts, best first.
        weights: (B, K) their scores, over the sum of these if they are to be renormalized.
        totals: None if they were not asked for.
    """

    chosen: Tensor
    weights: Tensor
    totals: Totals | None


def have_kernel(logits: Tensor) -> bool:
    """Whether ``route`` takes them (B, E); a compiler is left torch's calls, which it can fuse."""
    if torch.compiler.is_compiling() or logits.dtype != torch.float32 or not logits.numel():
        return False
    return path_of(logits) == "triton" and logits.shape[1] <= _MOST_EXPERTS


def route(logits: Tensor, bias: Tensor | None, top_k: int, *, sigmoid: bool, renormalize: bool, totals: bool) -> Routed:
    """The choice by logits (B, E), which ``have_kernel``, and bias (E,). Differentiable by weights and shares."""
    arguments = (logits, bias, top_k, sigmoid, renormalize, totals)
    by = _Route.apply if wants_gradient(logits) else _route
    chosen, weights, shares, load = by(*arguments)
    return Routed(chosen, weights, Totals(shares, load) if totals else None)


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, bias: Tensor | None, top_k: int, sigmoid: bool, renormalize: bool, totals: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = _route(logits, bias, top_k, sigmoid, renormalize, totals)
        ctx.sigmoid, ctx.renormalize, ctx.totals = sigmoid, renormalize, totals
        ctx.save_for_backward(logits, found[0])
        ctx.mark_non_differentiable(found[0], found[3])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        _, of_weights, of_shares, _ = upstream
        of_shares = of_shares if ctx.totals else None
        if of_weights is None and of_shares is None:
            return (None,) * 6
        of_logits = _route_backward(*ctx.saved_tensors, of_weights, of_shares, ctx.sigmoid, ctx.renormalize)
        return of_logits, None, None, None, None, None


_route = plain_operator(
    "route(Tensor logits, Tensor? bias, int top_k, bool sigmoid, bool renormalize, bool totals)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    lambda logits, *others: part_of_another("router", logits).route(logits, *others),
    on=("CPU", "CUDA"),
)
_route_backward = plain_operator(
    "route_backward(Tensor logits, Tensor chosen, Tensor? of_weights, Tensor? of_shares, bool sigmoid,"
    " bool renormalize) -> Tensor",
    lambda logits, *others: part_of_another("router", logits).route_backward(logits, *others),
    on=("CPU", "CUDA"),
)


@torch.library.register_fake("membench::route")
def _(
    logits: Tensor, bias: Tensor | None, top_k: int, sigmoid: bool, renormalize: bool, totals: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del bias, sigmoid, renormalize
    tokens, experts = logits.shape
    shares = logits.new_empty(experts if totals else 0)
    chosen, load = (logits.new_empty(shape, dtype=torch.int64) for shape in ((tokens, top_k), shares.shape))
    return chosen, logits.new_empty(tokens, top_k), shares, load


@torch.library.register_fake("membench::route_backward")
def _(logits: Tensor, *others: Any) -> Tensor:
    del others
    return torch.empty_like(logits)
