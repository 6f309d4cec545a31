"""Causal attention within short sequences, where the ways through torch take longer than what is computed.

Torch's fused attention on a CPU works in blocks of 32 queries or more, however few there are. Of some tokens one call
turns queries and keys by their positions and attends; only what is projected is kept for the backward pass, which
forms the weights again.

Letters: S sequences, T tokens of each, h query heads, g key and value heads, c head dim.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import short_attention as native
from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient

MOST_TOKENS = 16  # of more, narrow heads are sooner attended in blocks


def is_short(projected: Tensor) -> bool:
    """Whether ``short_attention`` computes projected (S, T, …) sooner: on a CPU, and where no compiler fuses calls."""
    if torch.compiler.is_compiling() or not 0 < projected.shape[1] <= MOST_TOKENS:
        return False
    return projected.dtype in ELEMENTS and path_of(projected) == "native"


def short_attention(projected: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
    """(S, T, h·c) of projected (S, T, (h + 2g)·c), queries first; each token sees itself and those before it.
    Differentiable by what is projected.

    Args:
        cosines, sines: (T, c) of the tokens' positions, as ``models.rotary`` makes them.
        heads: h.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_shape("projected", projected, (None, None, None), "(S, T, (h + 2g)·c)")
    tokens, width = projected.shape[1:]
    for name, angles in (("cosines", cosines), ("sines", sines)):
        check_shape(name, angles, (tokens, cosines.shape[-1]), "(T, c)")
    head_dim = cosines.shape[1]
    kv_heads, odd = divmod(width // head_dim - heads, 2)
    if kv_heads < 1 or odd or heads < 1 or heads % kv_heads or width % head_dim or head_dim % 2:
        raise ValueError(f"{width} columns are projected: not {heads} query heads of {head_dim} and as wide key heads")
    check_dtypes(projected.dtype, cosines=cosines, sines=sines)
    if wants_gradient(projected):
        return _ShortAttention.apply(projected, cosines, sines, heads)
    return _short_attention(projected, cosines, sines, heads)


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
        ctx.heads = heads
        ctx.save_for_backward(projected, cosines, sines)
        return _short_attention(projected, cosines, sines, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _short_attention_backward(*upstream, *ctx.saved_tensors, ctx.heads), None, None, None


_short_attention = plain_operator(
    "short_attention(Tensor projected, Tensor cosines, Tensor sines, int heads) -> Tensor", native.short_attention
)
_short_attention_backward = plain_operator(
    "short_attention_backward(Tensor gradient, Tensor projected, Tensor cosines, Tensor sines, int heads) -> Tensor",
    native.short_attention_backward,
)


@torch.library.register_fake("membench::short_attention")
def _(projected: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
    del sines
    return projected.new_empty(*projected.shape[:2], heads * cosines.shape[1])


@torch.library.register_fake("membench::short_attention_backward")
def _(gradient: Tensor, projected: Tensor, *others: Any) -> Tensor:
    del gradient, others
    return projected.new_empty(projected.shape)


@register_flop_formula(torch.ops.membench.short_attention)
def _forward_flops(projected: Any, cosines: Any, sines: Any, heads: int, **others: Any) -> int:
    """Two products of every query head with the keys and values of the tokens that it sees."""
    del sines, others
    return 2 * _product_flops(projected, cosines, heads)


@register_flop_formula(torch.ops.membench.short_attention_backward)
def _backward_flops(gradient: Any, projected: Any, cosines: Any, sines: Any, heads: int, **others: Any) -> int:
    """Four; the scores that are formed again are executed and not needed."""
    del gradient, sines, others
    return 4 * _product_flops(projected, cosines, heads)


def _product_flops(projected: Any, cosines: Any, heads: int) -> int:
    sequences, tokens, _ = projected
    return sequences * heads * cosines[1] * tokens * (tokens + 1)
