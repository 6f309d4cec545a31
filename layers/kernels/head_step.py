"""A decoder's last norm and head for few tokens, in one call, where ``few_tokens.can_step``.

Letters: R rows, d model dim, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import head_step as native
from membench.layers.kernels.plain_operator import plain_operator


def head_step(x: Tensor, scale: Tensor, head: Tensor, eps: float) -> Tensor:
    """(R, V) of x (R, d), the norm's scale (d,) and head (V, d), all of one dtype. It is stage "head".

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_shape("x", x, (None, x.shape[-1]), "(R, d)")
    check_shape("scale", scale, (x.shape[1],), "(d,)")
    check_shape("head", head, (None, x.shape[1]), "(V, d)")
    check_dtypes(x.dtype, scale=scale, head=head)
    return _head_step(x, scale, head, eps)


_head_step = plain_operator("head_step(Tensor x, Tensor scale, Tensor head, float eps) -> Tensor", native.head_step)


@torch.library.register_fake("membench::head_step")
def _(x: Tensor, scale: Tensor, head: Tensor, eps: float) -> Tensor:
    del scale, eps
    return x.new_empty(len(x), len(head))


@register_flop_formula(torch.ops.membench.head_step)
def _flops(x: Any, scale: Any, head: Any, *others: Any, out_shape: Any = None, **named: Any) -> int:
    del scale, others, out_shape, named
    return 2 * x[0] * x[1] * head[0]
