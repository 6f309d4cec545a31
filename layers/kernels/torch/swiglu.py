"""What lies between the products of a SwiGLU, by torch's own calls. Shapes: ``layers.kernels.swiglu``, ``gated``."""

import torch
from torch import Tensor
from torch.nn import functional


def activate(gate_up: Tensor) -> Tensor:
    """(R, f)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def activate_backward(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(R, f), (R, 2f) and (R,); ``gradient`` is overwritten."""
    gate, up = gate_up.chunk(2, dim=-1)
    silu = functional.silu(gate)
    hidden = silu * up
    weight_gradient = None
    if weight is not None:
        weight_gradient = (gradient * hidden).sum(dim=-1, dtype=torch.promote_types(hidden.dtype, torch.float32))
        hidden.mul_(weight[:, None])
        gradient.mul_(weight[:, None])
    result = torch.empty_like(gate_up)
    gate_gradient, up_gradient = result.chunk(2, dim=-1)
    torch.mul(gradient, silu, out=up_gradient)
    torch.ops.aten.silu_backward.grad_input(gradient.mul_(up), gate, grad_input=gate_gradient)
    return hidden, result, weight_gradient


def gated(values: Tensor, gate: Tensor) -> Tensor:
    """(R, D)."""
    return values * functional.silu(gate)


def gated_backward(values: Tensor, gate: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both (R, D)."""
    of_gate = torch.ops.aten.silu_backward(gradient * values, gate)
    return gradient * functional.silu(gate), of_gate
