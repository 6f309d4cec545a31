"""The SwiGLU half of a decoder's block for few tokens, x + swiglu(norm(x)), in one call.

Letters: R rows, d model dim, f hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native import swiglu_step as native
from membench.layers.kernels.plain_operator import plain_operator


def swiglu_step(x: Tensor, scale: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
    """(R, d) of x (R, d), where ``few_tokens.can_step``. Its stages are up, with the norm, and down.

    Args:
        scale: (d,) of the norm.
        gate_up, down: (2f, d), gate first, and (d, f), contiguous.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_shape("x", x, (None, None), "(R, d)")
    model_dim = x.shape[1]
    check_shape("scale", scale, (model_dim,), "(d,)")
    check_shape("down", down, (model_dim, None), "(d, f)")
    check_shape("gate_up", gate_up, (2 * down.shape[1], model_dim), "(2f, d)")
    if {each.dtype for each in (x, scale, gate_up, down)} != {x.dtype}:
        raise ValueError("x, scale, gate_up and down should be of one dtype")
    if not (gate_up.is_contiguous() and down.is_contiguous()):
        raise ValueError("gate_up and down should be contiguous: they are read as they lie")
    return _swiglu_step(x, scale, gate_up, down, eps)


_swiglu_step = plain_operator(
    "swiglu_step(Tensor x, Tensor scale, Tensor gate_up, Tensor down, float eps) -> Tensor", native.swiglu_step
)


@torch.library.register_fake("membench::swiglu_step")
def _(x: Tensor, *others: Any) -> Tensor:
    del others
    return torch.empty_like(x)


@register_flop_formula(torch.ops.membench.swiglu_step)
def _flops(x: Any, scale: Any, gate_up: Any, down: Any, *eps: Any, **others: Any) -> int:
    del scale, eps, others
    return 2 * x[0] * x[1] * (gate_up[0] + down[1])
