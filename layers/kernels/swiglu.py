"""SwiGLU, W_down(silu(x W_gate) * (x W_up)), with a backward written by hand (arXiv 2002.05202).

Only x and the pre-activation are kept for the backward pass, which computes the elementwise product again. That costs
one elementwise pass; autograd would keep three more (R, f) tensors.

Letters: R rows, d model dim, f hidden.
"""

from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.matmul import linear, linear_gradients
from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import part_of_another, path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import computed_as_given, operands, wants_gradient
from membench.layers.kernels.stages import stage
from membench.layers.kernels.torch import swiglu as plain


def activate(gate_up: Tensor) -> Tensor:
    """(R, f): silu(gate) * up of gate_up (R, 2f), gate first."""
    return _activate(gate_up) if _by_kernels(gate_up) else plain.activate(gate_up)


def activate_backward(
    gate_up: Tensor, gradient: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The backward of weight (R,) times ``activate``: that product again, the gradients of gate_up and, fp32 at least,
    of weight.

    ``gradient`` (R, f) is that of the product, and may be overwritten.
    """
    if not _by_kernels(gate_up):
        return plain.activate_backward(gate_up, gradient, weight)
    hidden, result, weight_gradient = _activate_backward(gate_up, gradient, weight)
    return hidden, result, None if weight is None else weight_gradient


def _by_kernels(gate_up: Tensor) -> bool:
    """Whether one pass takes the place of torch's calls; a compiler is left those, which it can fuse."""
    return not torch.compiler.is_compiling() and gate_up.dtype in ELEMENTS and path_of(gate_up) != "torch"


_activate = plain_operator(
    "activate(Tensor gate_up) -> Tensor",
    lambda gate_up: part_of_another("swiglu", gate_up).activate(gate_up),
    on=("CPU", "CUDA"),
)
_activate_backward = plain_operator(
    "activate_backward(Tensor gate_up, Tensor gradient, Tensor? weight) -> (Tensor, Tensor, Tensor)",
    lambda gate_up, gradient, weight: part_of_another("swiglu", gate_up).activate_backward(gate_up, gradient, weight),
    on=("CPU", "CUDA"),
)


@torch.library.register_fake("membench::activate")
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)


@torch.library.register_fake("membench::activate_backward")
def _(gate_up: Tensor, gradient: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    of_weight = gradient.new_empty(0 if weight is None else len(weight), dtype=torch.float32)
    return torch.empty_like(gradient), torch.empty_like(gate_up), of_weight


@computed_as_given
def _forward(x: Tensor, gate_up: Tensor, down: Tensor, prefix: str) -> tuple[Tensor, Tensor]:
    """The result, and the pre-activation (R, 2f)."""
    with stage(f"{prefix}up"):
        pre = linear(x, gate_up)
        hidden = activate(pre)
    with stage(f"{prefix}down"):
        return linear(hidden, down), pre


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, prefix: str) -> Tensor:
        ctx.prefix = prefix
        y, pre = _forward(x, gate_up, down, prefix)
        ctx.save_for_backward(x, gate_up, down, pre)
        return y

    @staticmethod
    @computed_as_given
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that are asked for. The hidden layer is computed again instead of being kept."""
        x, gate_up, down, pre = ctx.saved_tensors
        y_gradient = gradients[0].contiguous()
        down_gradient = gate_up_gradient = x_gradient = None
        with stage(f"{ctx.prefix}down"):
            hidden_gradient = linear(y_gradient, down.t())
        with stage(f"{ctx.prefix}up"):
            hidden, pre_gradient, _ = activate_backward(pre, hidden_gradient)
            del hidden_gradient
        with stage(f"{ctx.prefix}down"):
            if ctx.needs_input_grad[2]:
                down_gradient = linear_gradients(y_gradient, hidden)
        with stage(f"{ctx.prefix}up"):
            if ctx.needs_input_grad[1]:
                gate_up_gradient = linear_gradients(pre_gradient, x)
            if ctx.needs_input_grad[0]:
                x_gradient = linear(pre_gradient, gate_up.t())
        return x_gradient, gate_up_gradient, down_gradient, None


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor, prefix: str = "") -> Tensor:
    """(R, d) of x (R, d), gate_up (2f, d) with the gate first, down (d, f).

    Its stages are ``prefix`` and "up" or "down".

    Raises:
        ValueError: they are of different dtypes, and autocast is off.
    """
    x, gate_up, down = operands(x=x, gate_up=gate_up, down=down)
    if not wants_gradient(x, gate_up, down):
        return _forward(x, gate_up, down, prefix)[0]
    return _SwiGLU.apply(x, gate_up, down, prefix)
