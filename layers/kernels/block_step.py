"""A decoder's block for one new token of each sequence, in one call, where ``few_tokens.can_step``.

Letters: S sequences, d model dim, h query heads, g key and value heads, c head dim, f hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.attend_last import check_attended
from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import block_step as native
from membench.layers.kernels.plain_operator import step_operator


def block_step(
    x: Tensor,
    attention_scale: Tensor,
    qkv: Tensor,
    out: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    held: int,
    eps: float,
    ffn: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """x + attention(norm(x)) of x (S, d), and where ``ffn`` is given, swiglu(norm(.)) added to that too.

    Stages are those of attention and of a SwiGLU; norms and sums belong to the products beside them. An observer of
    stages is served by a call for each.

    Args:
        attention_scale: (d,) of the first norm.
        qkv, out: ((h + 2g)·c, d), queries first, and (d, h·c).
        cosines, sines, keys, values, held: as for ``attend_last``.
        eps: of both norms.
        ffn: (d,) of the second norm; (2f, d), gate first; and (d, f).

    Raises:
        ValueError: shapes or dtypes do not fit, or there is no such place.
    """
    check_shape("x", x, (keys.shape[0], x.shape[-1]), "(S, d)")
    model_dim, dtype = x.shape[1], x.dtype
    check_shape("attention_scale", attention_scale, (model_dim,), "(d,)")
    check_shape("qkv", qkv, (qkv.shape[0], model_dim), "((h + 2g)·c, d)")
    heads = check_attended(dtype, qkv.shape[0], cosines, sines, keys, values, held)
    check_shape("out", out, (model_dim, heads * keys.shape[3]), "(d, h·c)")
    check_dtypes(dtype, attention_scale=attention_scale, qkv=qkv, out=out)
    if ffn is None:
        return _block_step(x, attention_scale, qkv, out, cosines, sines, keys, values, held, eps)
    ffn_scale, gate_up, down = ffn
    check_shape("ffn_scale", ffn_scale, (model_dim,), "(d,)")
    check_shape("down", down, (model_dim, down.shape[-1]), "(d, f)")
    check_shape("gate_up", gate_up, (2 * down.shape[1], model_dim), "(2f, d)")
    check_dtypes(dtype, ffn_scale=ffn_scale, gate_up=gate_up, down=down)
    return _block_step(x, attention_scale, qkv, out, cosines, sines, keys, values, held, eps, *ffn)


_block_step = step_operator(
    "block_step(Tensor x, Tensor attention_scale, Tensor qkv, Tensor out, Tensor cosines, Tensor sines,"
    " Tensor(a!) keys, Tensor(b!) values, int held, float eps, Tensor? ffn_scale=None, Tensor? gate_up=None,"
    " Tensor? down=None) -> Tensor",
    native.block_step,
)


@register_flop_formula(torch.ops.membench.block_step)
def _flops(x: Any, scale: Any, qkv: Any, out: Any, *others: Any, out_shape: Any = None, **named: Any) -> int:
    """Products with matrices, and two of every query head with the keys and values of all tokens."""
    del scale, out_shape, named
    _, _, _, _, held, _, *ffn = others
    sequences, model_dim = x
    gate_up, down = (ffn[1][0], ffn[2][1]) if ffn else (0, 0)
    return 2 * sequences * (model_dim * (qkv[0] + out[1] + gate_up + down) + 2 * out[1] * (held + 1))
