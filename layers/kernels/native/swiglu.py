"""What lies between the products of a SwiGLU, in C++: one pass forward and one backward, with exponentials in vectors.

Shapes: ``layers.kernels.swiglu``. Threads share the rows.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def activate(gate_up: Tensor) -> Tensor:
    """(R, f)."""
    gate_up = gate_up.contiguous()
    rows, twice = gate_up.shape
    hidden = torch.empty(rows, twice // 2, dtype=gate_up.dtype)
    call(
        "activate",
        ctypes.c_int(ELEMENTS[gate_up.dtype]),
        pointer(gate_up),
        *map(ctypes.c_int64, hidden.shape),
        pointer(hidden),
        threads(),
    )
    return hidden


def activate_backward(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(R, f), (R, 2f) and (R,) fp32, which is empty without a weight."""
    gate_up, gradient = gate_up.contiguous(), gradient.contiguous()
    weight = None if weight is None else weight.contiguous()
    hidden, of_gate_up = torch.empty_like(gradient), torch.empty_like(gate_up)
    of_weight = torch.empty(0 if weight is None else len(weight), dtype=torch.float32)
    call(
        "activate_backward",
        ctypes.c_int(ELEMENTS[gate_up.dtype]),
        *map(pointer, (gate_up, gradient, weight)),
        *map(ctypes.c_int64, hidden.shape),
        *map(pointer, (hidden, of_gate_up, of_weight)),
        threads(),
    )
    return hidden, of_gate_up, of_weight
