"""The SwiGLU half of a decoder's block for few rows, in C++: one region of threads for all its parts."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads
from membench.layers.kernels.stages import parts_of

STAGES = ("up", "down")


def swiglu_step(x: Tensor, scale: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
    """Shapes: ``layers.kernels.swiglu_step``. Threads share the rows of matrices."""
    model_dim, hidden = down.shape
    between = x.new_empty(len(x), hidden)
    x, scale = x.contiguous(), scale.contiguous()
    y = torch.empty_like(x)
    for first, last in parts_of(STAGES):
        call(
            "swiglu_step",
            ctypes.c_int(ELEMENTS[x.dtype]),
            ctypes.c_int(first),
            ctypes.c_int(last),
            *map(pointer, (x, scale, gate_up, down, between, y)),
            *map(ctypes.c_int64, (len(x), model_dim, hidden)),
            ctypes.c_double(eps),
            threads(),
        )
    return y
