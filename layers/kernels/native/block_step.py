"""A decoder's block for one new token of each sequence, in C++: one region of threads for all its parts."""

import ctypes

from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads
from membench.layers.kernels.stages import parts_of

STAGES = ("qkv", "attention", "out_proj", "up", "down")


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
    ffn_scale: Tensor | None = None,
    gate_up: Tensor | None = None,
    down: Tensor | None = None,
) -> Tensor:
    """Shapes: ``layers.kernels.block_step``. Threads share the rows of matrices, and the heads."""
    sequences, kv_heads, capacity, head_dim = keys.shape
    model_dim, queries = out.shape
    hidden = 0 if down is None else down.shape[1]
    given = [each.contiguous() for each in (x, attention_scale, qkv, out, cosines, sines)]
    ffn = [each if each is None else each.contiguous() for each in (ffn_scale, gate_up, down)]
    y, between = x.new_empty(sequences, model_dim), x.new_empty(sequences, qkv.shape[0] + queries + hidden)
    sizes = (sequences, queries // head_dim, kv_heads, head_dim, capacity, held, model_dim, hidden)
    for first, last in parts_of(STAGES if hidden else STAGES[:3]):
        call(
            "block_step",
            ctypes.c_int(ELEMENTS[x.dtype]),
            ctypes.c_int(first),
            ctypes.c_int(last),
            *map(pointer, (*given, keys, values, *ffn, between, y)),
            *map(ctypes.c_int64, sizes),
            ctypes.c_double(eps),
            threads(),
        )
    return y
