"""Causal attention within short sequences in C++: a head's queries, keys and values stay in the first-level cache.

Shapes: ``layers.kernels.short_attention``. Threads share the key heads of all sequences.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def short_attention(projected: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
    """(S, T, h·c)."""
    sequences, tokens, _ = projected.shape
    attended = projected.new_empty(sequences, tokens, heads * cosines.shape[1])
    _call("short_attention", (projected, cosines, sines), heads, attended)
    return attended


def short_attention_backward(gradient: Tensor, projected: Tensor, cosines: Tensor, sines: Tensor, heads: int) -> Tensor:
    """(S, T, (h + 2g)·c), the gradient of what is projected, given that of what is attended."""
    found = torch.empty(projected.shape, dtype=projected.dtype)
    _call("short_attention_backward", (projected, cosines, sines, gradient), heads, found)
    return found


def _call(name: str, given: tuple[Tensor, ...], heads: int, result: Tensor) -> None:
    projected, cosines, *_ = given = tuple(each.contiguous() for each in given)
    (sequences, tokens, width), head_dim = projected.shape, cosines.shape[1]
    call(
        name,
        ctypes.c_int(ELEMENTS[projected.dtype]),
        *map(pointer, given),
        *map(ctypes.c_int64, (sequences, tokens, heads, (width // head_dim - heads) // 2, head_dim)),
        pointer(result),
        threads(),
    )
