"""What lies between the products of a SwiGLU, by torch's own calls. Shapes: ``layers.kernels.swiglu``, ``gated``.

Each is computed in fp32 at least and rounded once: in a narrower dtype every call would round again.
"""

import torch
from torch import Tensor
from torch.nn import functional


def activate(gate_up: Tensor) -> Tensor:
    """(R, f)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(_wide(gate)).mul_(up).to(gate_up.dtype)


def activate_backward(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """(R, f), (R, 2f) and (R,); ``gradient`` may be overwritten."""
    gate, up = (_wide(each) for each in gate_up.chunk(2, dim=-1))
    silu, gradient = functional.silu(gate), _wide(gradient)
    hidden = silu * up
    weight_gradient = None
    if weight is not None:
        weight_gradient = (gradient * hidden).sum(dim=-1)
        hidden.mul_(weight[:, None])
        gradient.mul_(weight[:, None])
    result = torch.empty_like(gate_up)
    gate_gradient, up_gradient = result.chunk(2, dim=-1)
    torch.mul(gradient, silu, out=up_gradient)
    torch.ops.aten.silu_backward.grad_input(gradient.mul_(up), gate, grad_input=gate_gradient)
    return hidden.to(gate_up.dtype), result, weight_gradient


def gated(values: Tensor, gate: Tensor) -> Tensor:
    """(R, D)."""
    return (_wide(values) * functional.silu(_wide(gate))).to(torch.promote_types(values.dtype, gate.dtype))


def gated_backward(values: Tensor, gate: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both (R, D)."""
    wide_gate, wide_gradient = _wide(gate), _wide(gradient)
    of_gate = torch.ops.aten.silu_backward(wide_gradient * _wide(values), wide_gate)
    return (wide_gradient * functional.silu(wide_gate)).to(values.dtype), of_gate.to(gate.dtype)


def _wide(numbers: Tensor) -> Tensor:
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))
