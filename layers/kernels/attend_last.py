"""Attention of one new token of each sequence: a decoder's step, where calls take longer than what they compute.

On a CPU one call turns queries and keys by their position, writes the cache and attends: torch takes some fifteen.

Letters: S sequences, h query heads, g key and value heads, c head dim, C tokens that the cache holds.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import attend_last as native
from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient


def can_attend(projected: Tensor, keys: Tensor) -> bool:
    """Whether ``attend_last`` computes this: on a CPU, without a gradient, and where no compiler fuses the calls."""
    if torch.compiler.is_compiling() or wants_gradient(projected):
        return False
    return projected.dtype == keys.dtype and projected.dtype in ELEMENTS and path_of(projected) == "native"


def attend_last(projected: Tensor, cosines: Tensor, sines: Tensor, keys: Tensor, values: Tensor, held: int) -> Tensor:
    """(S, h·c) of projected (S, (h + 2g)·c), queries first, and of all that the cache then holds.

    Args:
        cosines, sines: (c,) of the token's position, as ``models.rotary`` makes them.
        keys, values: (S, g, capacity, c), contiguous, which get the token's at place ``held``.

    Raises:
        ValueError: shapes or dtypes do not fit, or there is no such place.
    """
    check_shape("projected", projected, (len(keys), None), "(S, (h + 2g)·c)")
    check_attended(projected.dtype, projected.shape[1], cosines, sines, keys, values, held)
    return _attend_last(projected, cosines, sines, keys, values, held)


def check_attended(
    dtype: torch.dtype, width: int, cosines: Tensor, sines: Tensor, keys: Tensor, values: Tensor, held: int
) -> int:
    """How many query heads (h + 2g)·c = ``width`` columns of queries, keys and values are.

    Raises:
        ValueError: shapes do not fit, dtypes are not ``dtype``, or there is no such place.
    """
    _, kv_heads, capacity, head_dim = keys.shape
    check_shape("values", values, tuple(keys.shape), "(S, g, capacity, c)")
    for name, angles in (("cosines", cosines), ("sines", sines)):
        check_shape(name, angles, (head_dim,), "(c,)")
    heads = width // head_dim - 2 * kv_heads
    if heads < 1 or heads % kv_heads or width % head_dim or head_dim % 2:
        raise ValueError(f"{width} columns are projected: no heads of {head_dim} for {kv_heads} key heads")
    if not 0 <= held < capacity:
        raise ValueError(f"the cache has {capacity} places, none of number {held}")
    check_dtypes(dtype, cosines=cosines, sines=sines, keys=keys, values=values)
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError("keys and values should be contiguous: they are written where they lie")
    return heads


_attend_last = plain_operator(
    "attend_last(Tensor projected, Tensor cosines, Tensor sines, Tensor(a!) keys, Tensor(b!) values, int held)"
    " -> Tensor",
    native.attend_last,
)


@torch.library.register_fake("membench::attend_last")
def _(projected: Tensor, cosines: Tensor, sines: Tensor, keys: Tensor, values: Tensor, held: int) -> Tensor:
    del cosines, sines, values, held
    return projected.new_empty(len(projected), projected.shape[1] - 2 * keys.shape[1] * keys.shape[3])


@register_flop_formula(torch.ops.membench.attend_last)
def _flops(projected: Any, cosines: Any, sines: Any, keys: Any, values: Any, held: int, **others: Any) -> int:
    """Two products of every query head with the keys and values of all tokens."""
    del cosines, sines, values, others
    sequences, kv_heads, _, head_dim = keys
    return 4 * sequences * (projected[1] - 2 * kv_heads * head_dim) * (held + 1)
