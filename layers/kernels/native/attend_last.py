"""Attention of one new token in C++: turned, written and attended in one call, each key and value read once."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def attend_last(projected: Tensor, cosines: Tensor, sines: Tensor, keys: Tensor, values: Tensor, held: int) -> Tensor:
    """Each thread computes some heads of some sequences. Shapes: ``layers.kernels.attend_last``."""
    sequences, kv_heads, capacity, head_dim = keys.shape
    heads = projected.shape[1] // head_dim - 2 * kv_heads
    attended = torch.empty(sequences, heads * head_dim, dtype=projected.dtype)
    projected, cosines, sines = projected.contiguous(), cosines.contiguous(), sines.contiguous()
    call(
        "attend_last",
        ctypes.c_int(ELEMENTS[projected.dtype]),
        *map(pointer, (projected, cosines, sines, keys, values)),
        *map(ctypes.c_int64, (sequences, heads, kv_heads, head_dim, capacity, held)),
        pointer(attended),
        threads(),
    )
    return attended
