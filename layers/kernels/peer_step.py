"""A PEER layer for few tokens in one call, where ``few_tokens.can_step``: query, choice of experts, and these.

Letters: B tokens, d model dim, H heads, k experts a head, N experts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import peer_step as native
from membench.layers.kernels.plain_operator import step_operator
from membench.layers.kernels.retrieval_step import SCHEMA, Retrieving, flops


def peer_step(retrieving: Retrieving, down: Tensor, up: Tensor) -> Tensor:
    """y (B, d), the sum of weight · gelu(down_i · x) up_i. An observer of stages is served by a call for each.

    Args:
        down, up: (N, d).

    Raises:
        ValueError: shapes or dtypes do not fit.
        IndexError: there is no such expert.
    """
    retrieving.check()
    rows = retrieving.keys.shape[2] ** 2
    for name, table in (("down", down), ("up", up)):
        check_shape(name, table, (rows, retrieving.x.shape[1]), "(N, d)")
        check_dtypes(retrieving.x.dtype, **{name: table})
    return _peer_step(*retrieving.operands(), down, up)


_peer_step = step_operator(f"peer_step({SCHEMA}, Tensor down, Tensor up) -> Tensor", native.peer_step)


@register_flop_formula(torch.ops.membench.peer_step)
def _flops(x: Any, *operands: Any, out_shape: Any = None, **named: Any) -> int:
    """Products with the query's matrix, keys, and both rows of every expert that is used."""
    del out_shape, named
    query, keys, top_k = operands[2], operands[3], operands[8]
    return flops(x, query, keys) + 4 * x[0] * keys[0] * top_k * x[1]
