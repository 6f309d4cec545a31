"""A SwiGLU beside a sparse layer, for few tokens in one call, where ``few_tokens.can_step``.

Letters: B tokens, d model dim, f hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import companion_step as native
from membench.layers.kernels.plain_operator import step_operator


def companion_step(
    x: Tensor, block: tuple[Tensor, float] | None, gate_up: Tensor, down: Tensor, beside: Tensor
) -> Tensor:
    """(B, d): ``beside`` + swiglu(x) of x (B, d), all of one dtype. An observer of stages is served by a call for each.

    Args:
        block: (d,) scale and eps of a block's norm, of which x then is what is normed.
        gate_up, down: (2f, d), gate first, and (d, f).
        beside: (B, d) what the layer gives; in a block with x added.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    model_dim = x.shape[-1]
    check_shape("x", x, (None, model_dim), "(B, d)")
    check_shape("down", down, (model_dim, down.shape[-1]), "(d, f)")
    check_shape("gate_up", gate_up, (2 * down.shape[1], model_dim), "(2f, d)")
    check_shape("beside", beside, tuple(x.shape), "(B, d)")
    check_dtypes(x.dtype, gate_up=gate_up, down=down, beside=beside)
    scale, eps = block or (None, 0.0)
    if scale is not None:
        check_shape("block", scale, (model_dim,), "(d,)")
        check_dtypes(x.dtype, block=scale)
    return _companion_step(x, scale, eps, gate_up, down, beside)


_companion_step = step_operator(
    "companion_step(Tensor x, Tensor? block_scale, float block_eps, Tensor gate_up, Tensor down, Tensor beside)"
    " -> Tensor",
    native.companion_step,
)


@register_flop_formula(torch.ops.membench.companion_step)
def _flops(
    x: Any, scale: Any, eps: Any, gate_up: Any, down: Any, *others: Any, out_shape: Any = None, **named: Any
) -> int:
    del scale, eps, others, out_shape, named
    return 2 * x[0] * x[1] * (gate_up[0] + down[1])
