"""A mixture of experts for few tokens in one call, where ``few_tokens.can_step``: router, experts, their sum, and the
shared experts.

Letters: B tokens, d model dim, E experts, K experts a token, f their hidden width, s that of the shared experts.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_fp32, check_integers, check_shape
from membench.layers.kernels.few_tokens import most_tokens
from membench.layers.kernels.native import moe_step as native
from membench.layers.kernels.plain_operator import step_operator

MOST_TOKENS = most_tokens(4, 128)  # of more, experts have enough tokens each for tiles


@dataclass(frozen=True, slots=True)
class Router:
    """How tokens choose experts.

    Attributes:
        weight: (E, d).
        bias: (E,) fp32, which moves the choice and not the weights, or None.
        top_k: K.
        sigmoid: of logits, and not their softmax.
        renormalize: the weights of a token's experts come to 1.
        chosen: (B, K) experts that are used instead of those chosen, with their weights, or None.
    """

    weight: Tensor
    bias: Tensor | None
    top_k: int
    sigmoid: bool
    renormalize: bool
    chosen: Tensor | None


def moe_step(
    x: Tensor,
    block: tuple[Tensor, float] | None,
    router: Router,
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """y (B, d) of x (B, d). An observer of stages is served by a call for each.

    Args:
        block: (d,) scale and eps of a block's norm: then x + layer(norm(x)) is computed, and else layer(x).
        experts: (E, 2f, d), gate first, and (E, d, f).
        shared: (2s, d), gate first, and (d, s), if there are shared experts.

    Raises:
        ValueError: shapes or dtypes do not fit, or there are fewer than K experts.
        IndexError: there is no such expert.
    """
    check_shape("x", x, (None, x.shape[-1]), "(B, d)")
    (tokens, d), dtype = x.shape, x.dtype
    count, hidden = len(router.weight), experts[1].shape[-1]
    check_shape("router", router.weight, (count, d), "(E, d)")
    check_shape("gate_up", experts[0], (count, 2 * hidden, d), "(E, 2f, d)")
    check_shape("down", experts[1], (count, d, hidden), "(E, d, f)")
    check_dtypes(dtype, router=router.weight, gate_up=experts[0], down=experts[1])
    if block is not None:
        check_shape("block", block[0], (d,), "(d,)")
        check_dtypes(dtype, block=block[0])
    if shared is not None:
        check_shape("shared gate_up", shared[0], (2 * shared[1].shape[-1], d), "(2s, d)")
        check_shape("shared down", shared[1], (d, shared[1].shape[-1]), "(d, s)")
        check_dtypes(dtype, shared_gate_up=shared[0], shared_down=shared[1])
    if router.bias is not None:
        check_shape("bias", router.bias, (count,), "(E,)")
        check_fp32("bias", router.bias)
    if not 0 < router.top_k <= count:
        raise ValueError(f"top_k should be 1 to {count}, the number of experts, not {router.top_k}")
    if router.chosen is not None:
        check_shape("chosen", router.chosen, (tokens, router.top_k), "(B, K)")
        check_integers("chosen", router.chosen)
    scale, eps = block or (None, 0.0)
    how = router.weight, router.bias, router.top_k, router.sigmoid, router.renormalize, router.chosen
    return _moe_step(x, scale, eps, *how, *experts, *(shared or (None, None)))


_moe_step = step_operator(
    "moe_step(Tensor x, Tensor? block_scale, float block_eps, Tensor router, Tensor? bias, int top_k, bool sigmoid,"
    " bool renormalize, Tensor? chosen, Tensor gate_up, Tensor down, Tensor? shared_gate_up, Tensor? shared_down)"
    " -> Tensor",
    native.moe_step,
)


@register_flop_formula(torch.ops.membench.moe_step)
def _flops(x: Any, *operands: Any, out_shape: Any = None, **named: Any) -> int:
    """Products with the router, with three matrices of every expert that a token uses and of the shared ones, and with
    the weights of what experts give.
    """
    del out_shape, named
    tokens, d = x
    router, top_k, down, shared = operands[2], operands[4], operands[9], operands[11]
    hidden = top_k * down[2] + (0 if shared is None else shared[1])
    return 2 * tokens * d * (router[0] + 3 * hidden + top_k)
