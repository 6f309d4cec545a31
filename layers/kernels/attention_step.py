"""The attention half of a decoder's block for one new token of each sequence, x + attention(norm(x)), in one call.

What it reads is read in a millisecond, and Python's and torch's ways between its parts take as long again.

Letters: S sequences, d model dim, h query heads, g key and value heads, c head dim.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.attend_last import check_attended
from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native import attention_step as native
from membench.layers.kernels.plain_operator import plain_operator


def attention_step(
    x: Tensor,
    scale: Tensor,
    qkv: Tensor,
    out: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    held: int,
    eps: float,
) -> Tensor:
    """(S, d) of x (S, d), where ``few_tokens.can_step``. Its stages are qkv, with the norm, attention and out_proj.

    Args:
        scale: (d,) of the norm.
        qkv, out: ((h + 2g)·c, d), queries first, and (d, h·c), contiguous.
        cosines, sines, keys, values, held: as for ``attend_last``.

    Raises:
        ValueError: shapes or dtypes do not fit, or there is no such place.
    """
    sequences, model_dim = x.shape
    check_shape("scale", scale, (model_dim,), "(d,)")
    check_shape("qkv", qkv, (None, model_dim), "((h + 2g)·c, d)")
    heads = check_attended(qkv, len(qkv), cosines, sines, keys, values, held)
    check_shape("keys", keys, (sequences, None, None, None), "(S, g, capacity, c)")
    check_shape("out", out, (model_dim, heads * keys.shape[3]), "(d, h·c)")
    if {each.dtype for each in (x, scale, qkv, out, keys)} != {x.dtype}:
        raise ValueError("x, scale, qkv, out and keys should be of one dtype")
    if not (qkv.is_contiguous() and out.is_contiguous()):
        raise ValueError("qkv and out should be contiguous: they are read as they lie")
    return _attention_step(x, scale, qkv, out, cosines, sines, keys, values, held, eps)


_attention_step = plain_operator(
    "attention_step(Tensor x, Tensor scale, Tensor qkv, Tensor out, Tensor cosines, Tensor sines, Tensor(a!) keys,"
    " Tensor(b!) values, int held, float eps) -> Tensor",
    native.attention_step,
)


@torch.library.register_fake("membench::attention_step")
def _(x: Tensor, *others: Any) -> Tensor:
    del others
    return torch.empty_like(x)


@register_flop_formula(torch.ops.membench.attention_step)
def _flops(
    x: Any,
    scale: Any,
    qkv: Any,
    out: Any,
    cosines: Any,
    sines: Any,
    keys: Any,
    values: Any,
    held: int,
    *eps: Any,
    **others: Any,
) -> int:
    """Two products with matrices, and two of every query head with the keys and values of all tokens."""
    del scale, cosines, sines, keys, values, eps, others
    sequences, model_dim = x
    return 2 * sequences * (qkv[0] * model_dim + model_dim * out[1] + 2 * out[1] * (held + 1))
