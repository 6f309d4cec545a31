"""SwiGLU experts over rows sorted by expert: gather, three products an expert, weigh, combine.

This is one operator, because most of the tensors that autograd would keep are not needed. The gradient of a row's
weight is y' · (W_down h) = (W_down^T y') · h, that is f products of what the backward computes anyway. So the results
(R, d) are not kept, only x and the pre-activation (R, 2f).

On CUDA each product is one launch for all experts' matrices: torch's ``grouped_mm`` in bf16 on Hopper, Triton on other
devices and in other dtypes. On a CPU it is one call of C++ in bf16, where the processor cannot multiply that, and of
few rows an expert in fp32, where MKL is not at its best. Elsewhere a loop goes over the experts.

Letters: B tokens, E experts, R rows, d model dim, f hidden width of an expert.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.dispatch import Dispatch, combine
from membench.layers.kernels.expert_operands import Gradients, Operands
from membench.layers.kernels.native import grouped_matmul as native_products
from membench.layers.kernels.paths import implementation, path_of, took
from membench.layers.kernels.precision import computed_as_given, operands
from membench.layers.kernels.stages import stage
from membench.layers.kernels.swiglu import activate, activate_backward
from membench.layers.kernels.torch import expert_loop
from membench.layers.kernels.torch import grouped_matmul as torch_products
from membench.layers.kernels.uncompiled import custom_op


def experts(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, dispatch: Dispatch) -> Tensor:
    """(B, d): each token's weighted sum over the experts that ``dispatch`` sends it to. Differentiable.

    Args:
        x: (B, d) tokens.
        gate_up, down: (E, 2f, d), gate first, and (E, d, f).
        weight: (R,) fp32 or wider, of the rows of ``dispatch``.

    Raises:
        ValueError: x and the matrices are of different dtypes, and autocast is off.
    """
    x, gate_up, down = operands(x=x, gate_up=gate_up, down=down)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, gate_up, down, weight))
    y, _ = _experts(x, gate_up, down, weight, *_tensors(dispatch), keep)
    return y


def _tensors(dispatch: Dispatch) -> tuple[Tensor, ...]:
    """The fields of the dispatch, because an operator takes no objects."""
    return dispatch.token, dispatch.ends, dispatch.slot, dispatch.returned, dispatch.starts


@custom_op("membench::experts")
@computed_as_given
def _experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    weight: Tensor,
    token: Tensor,
    ends: Tensor,
    slot: Tensor,
    returned: Tensor,
    starts: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result, and the pre-activation (R, 2f) if it is to be kept for a backward, else (0, 2f)."""
    of = Operands(x, gate_up, down, weight.to(x.dtype), Dispatch(token, ends, slot, returned, starts))
    products = _grouped_products(of, training=keep)
    if products is None:
        pre, rows = expert_loop.forward(of, keep=keep)
    else:
        pre = products.grouped_linear(x, gate_up, ends, token)
        rows = products.grouped_linear(activate(pre), down, ends)
    with stage("combine"):
        return combine(rows, of.dispatch, of.weight), pre if keep else pre.new_empty(0, pre.shape[1])


@_experts.register_fake
def _(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, token: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    del down, weight
    keep = others[-1]
    return x.new_empty(x.shape), x.new_empty(token.shape[0] if keep else 0, gate_up.shape[1])


@custom_op("membench::experts_backward")
@computed_as_given
def _experts_backward(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    weight: Tensor,
    token: Tensor,
    ends: Tensor,
    slot: Tensor,
    returned: Tensor,
    starts: Tensor,
    pre: Tensor,
    y_gradient: Tensor,
    of_x: bool,
    of_experts: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, gate_up, down and weight; empty ones of what was not asked for."""
    of = Operands(x, gate_up, down, weight.to(x.dtype), Dispatch(token, ends, slot, returned, starts))
    products = _grouped_products(of, training=True)
    if products is None:
        found = expert_loop.backward(of, pre, y_gradient, of_x=of_x, of_experts=of_experts)
    else:
        found = _grouped_backward(products, of, pre, y_gradient, of_x=of_x, of_experts=of_experts)
    with stage("combine"):
        x_gradient = None if found.rows is None else combine(found.rows, of.dispatch)
    gradients = (x_gradient, found.gate_up, found.down, found.weight)
    return tuple(x.new_empty(0) if each is None else each for each in gradients)  # type: ignore[return-value]


@_experts_backward.register_fake
def _(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, of_x, of_experts = others
    asked = ((x, of_x), (gate_up, of_experts), (down, of_experts), (weight, True))
    return tuple(each.new_empty(each.shape if wanted else 0) for each, wanted in asked)  # type: ignore[return-value]


def _grouped_products(of: Operands, *, training: bool) -> ModuleType | None:
    """The module that multiplies all experts' matrices in one launch; None if there is none."""
    if torch_products.is_one_launch(of.down):
        took("grouped_matmul", "torch")
        return torch_products
    if path_of(of.x) == "triton":
        return implementation("grouped_matmul", of.x)
    if native_products.is_best_for_experts(of.gate_up, of.down, of.dispatch.ends, training=training):
        return implementation("grouped_matmul", of.x)
    took("grouped_matmul", "loop")
    return None


def _grouped_backward(
    products: ModuleType, of: Operands, pre: Tensor, y_gradient: Tensor, *, of_x: bool, of_experts: bool
) -> Gradients:
    token, ends = of.dispatch.token, of.dispatch.ends
    given, y_token = y_gradient, token
    if products is torch_products:  # it would gather the rows of each product anew
        given, y_token = y_gradient.index_select(0, token), None
    hidden_gradient = products.grouped_linear(given, of.down.mT, ends, y_token)
    hidden, pre_gradient, weight = activate_backward(pre, hidden_gradient, of.weight)
    assert weight is not None
    rows = gate_up = down = None
    if of_experts:
        down = products.grouped_linear_gradients(given, hidden, ends, y_token=y_token)
    del given
    if of_experts:
        gate_up = products.grouped_linear_gradients(pre_gradient, of.x, ends, x_token=token)
    if of_x:
        rows = products.grouped_linear(pre_gradient, of.gate_up.mT, ends)
    return Gradients(rows, gate_up, down, weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, y_gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if y_gradient is None:  # no gradient of y arrives
        return (None,) * 10
    of_x, *of_weights = ctx.needs_input_grad[:4]
    of_experts = of_weights[0] or of_weights[1]
    found = _experts_backward(*ctx.saved_tensors, y_gradient.contiguous(), of_x, of_experts)
    wanted = zip(found, ctx.needs_input_grad, strict=False)
    return *(each if asked else None for each, asked in wanted), *(None,) * 6


_experts.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.membench.experts)
def _experts_flops(
    x: Any, gate_up: Any, down: Any, weight: Any, token: Any, *others: Any, out_shape: Any = None, **named: Any
) -> int:
    del x, gate_up, weight, out_shape, named
    _, d, f = down
    returned = others[2][0]
    return 6 * token[0] * d * f + 2 * returned * d


@register_flop_formula(torch.ops.membench.experts_backward)
def _experts_backward_flops(
    x: Any, gate_up: Any, down: Any, weight: Any, token: Any, *others: Any, out_shape: Any = None, **named: Any
) -> int:
    """Of W_down^T y', which all need, of what is asked for, and of the weighted sums."""
    del x, gate_up, weight, out_shape, named
    _, d, f = down
    returned, (of_x, of_experts) = others[2][0], others[-2:]
    return 2 * token[0] * d * f * (1 + 2 * of_x + 3 * of_experts) + 4 * returned * d
