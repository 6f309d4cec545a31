"""The attention half of a decoder's block for one new token, in C++: one region of threads for all its parts."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads
from membench.layers.kernels.stages import parts_of

STAGES = ("qkv", "attention", "out_proj")


def attention_step(
    x: Tensor,
    scale: Tensor,
    qkv: Tensor,
    out: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    held: int,
    eps: float,
) -> Tensor:
    """Shapes: ``layers.kernels.attention_step``. Threads share the rows of matrices, and the heads."""
    sequences, kv_heads, capacity, head_dim = keys.shape
    model_dim, width = out.shape
    between = x.new_empty(sequences * (len(qkv) + width))
    projected, attended = between.split([sequences * len(qkv), sequences * width])
    x, scale, cosines, sines = x.contiguous(), scale.contiguous(), cosines.contiguous(), sines.contiguous()
    y = torch.empty_like(x)
    sizes = (sequences, model_dim, width // head_dim, kv_heads, head_dim, capacity, held)
    for first, last in parts_of(STAGES):
        call(
            "attention_step",
            ctypes.c_int(ELEMENTS[x.dtype]),
            ctypes.c_int(first),
            ctypes.c_int(last),
            *map(pointer, (x, scale, qkv, out, cosines, sines, keys, values, projected, attended, y)),
            *map(ctypes.c_int64, sizes),
            ctypes.c_double(eps),
            threads(),
        )
    return y
