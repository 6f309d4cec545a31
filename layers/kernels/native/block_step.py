"""A decoder's block for one new token of each sequence, in C++: one region of threads for all its parts."""

import struct

from torch import Tensor

from membench.layers.kernels.in_turn import take_step

STAGES = ("qkv", "attention", "out_proj", "up", "down")
_ARGUMENTS = struct.Struct("13q8qd")  # ``Arguments`` of block_step.cpp, which ctypes would convert one by one
_PLACE = struct.Struct("3q")  # among them: where the angles lie, and what is held
_PLACE_AT = 11 * struct.calcsize("q")


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
    *others, cosines, sines = given
    lies = (*others, keys, values, *ffn, between, y, cosines, sines)
    addresses = [0 if each is None else each.data_ptr() for each in lies]
    sizes = (held, sequences, queries // head_dim, kv_heads, head_dim, capacity, model_dim, hidden)
    numbers = _ARGUMENTS.pack(*addresses, *sizes, eps)
    kept = *given, *ffn, keys, values, between, y
    take_step("block_step", x.dtype, STAGES if hidden else STAGES[:3], numbers, kept)
    return y


def move(numbers: bytearray, cosines: int, sines: int, held: int) -> None:
    """Makes packed arguments those of a token at another place, whose angles lie at these addresses."""
    _PLACE.pack_into(numbers, _PLACE_AT, cosines, sines, held)
