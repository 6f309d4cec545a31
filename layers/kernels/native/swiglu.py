"""What lies between the products of a SwiGLU, in C++: one pass forward and one backward, with exponentials in vectors.

Shapes: ``layers.kernels.swiglu`` and ``layers.kernels.gated``, of which the gate and what it multiplies lie in one
matrix or in two. Threads share the rows.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def activate(gate_up: Tensor) -> Tensor:
    """(R, f)."""
    return _forward(*gate_up.contiguous().chunk(2, dim=1))


def activate_backward(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(R, f), (R, 2f) and (R,) fp32, which is empty without a weight."""
    gate_up, gradient = gate_up.contiguous(), gradient.contiguous()
    weight = None if weight is None else weight.contiguous()
    hidden, of_gate_up = torch.empty_like(gradient), torch.empty_like(gate_up)
    of_weight = torch.empty(0 if weight is None else len(weight), dtype=torch.float32)
    found = hidden, *of_gate_up.chunk(2, dim=1), of_weight
    _backward(*gate_up.chunk(2, dim=1), gradient, weight, *found)
    return hidden, of_gate_up, of_weight


def gated(values: Tensor, gate: Tensor) -> Tensor:
    """(R, D)."""
    return _forward(gate.contiguous(), values.contiguous())


def gated_backward(values: Tensor, gate: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both (R, D)."""
    values, gate, gradient = values.contiguous(), gate.contiguous(), gradient.contiguous()
    of_values, of_gate = torch.empty_like(values), torch.empty_like(gate)
    _backward(gate, values, gradient, None, None, of_gate, of_values, None)
    return of_values, of_gate


def _forward(gate: Tensor, up: Tensor) -> Tensor:
    """(R, f) of both (R, f), whose rows lie equally far apart."""
    hidden = torch.empty(gate.shape, dtype=gate.dtype)
    element = ctypes.c_int(ELEMENTS[gate.dtype])
    call("activate", element, pointer(gate), pointer(up), *_shape(gate), pointer(hidden), threads())
    return hidden


def _backward(gate: Tensor, up: Tensor, gradient: Tensor, weight: Tensor | None, *found: Tensor | None) -> None:
    element, given = ctypes.c_int(ELEMENTS[gate.dtype]), map(pointer, (gate, up, gradient, weight))
    call("activate_backward", element, *given, *_shape(gate), *map(pointer, found), threads())


def _shape(gate: Tensor) -> tuple[ctypes.c_int64, ...]:
    """Its rows, how far apart they are, and how long."""
    return tuple(map(ctypes.c_int64, (len(gate), gate.stride(0), gate.shape[1])))
