"""A mixture of experts for few tokens in C++: one region of threads for all its parts."""

import struct

import torch
from torch import Tensor

from membench.layers.kernels.in_turn import take_step
from membench.layers.kernels.native.calls import check_numbers

_STAGES = ("router", "dispatch", "experts", "combine", "shared_up", "shared_down")
_ARGUMENTS = struct.Struct("3q2qd6q14q")  # ``Given`` of moe_step.cpp, which ctypes would convert one by one


def moe_step(
    x: Tensor,
    block_scale: Tensor | None,
    block_eps: float,
    router: Tensor,
    bias: Tensor | None,
    top_k: int,
    sigmoid: bool,
    renormalize: bool,
    chosen: Tensor | None,
    gate_up: Tensor,
    down: Tensor,
    shared_gate_up: Tensor | None,
    shared_down: Tensor | None,
) -> Tensor:
    """Shapes: ``layers.kernels.moe_step``. Threads share the rows of matrices, and the columns of sums."""
    (tokens, d), (count, _, hidden) = x.shape, down.shape
    if chosen is not None:
        check_numbers("expert", chosen, count, f"{count}")
        chosen = chosen.long()
    rows, shared_hidden = tokens * top_k, 0 if shared_down is None else shared_down.shape[1]
    whole = [
        each if each is None else each.contiguous()
        for each in (x, block_scale, router, bias, gate_up, down, shared_gate_up, shared_down, chosen)
    ]
    y, of_elements = x.new_empty(tokens, d), x.new_empty(rows * hidden + tokens * shared_hidden)
    floats, places = (
        torch.empty(tokens * count + rows + rows * d, dtype=torch.float32),
        torch.empty(2 * rows, dtype=torch.int64),
    )
    at_x, at_scale, *weights = (0 if each is None else each.data_ptr() for each in whole)
    logits, slots = floats.data_ptr(), places.data_ptr() + 8 * rows
    of_weights, of_rows = logits + 4 * tokens * count, of_elements.data_ptr()
    numbers = _ARGUMENTS.pack(
        *(at_x, at_scale, y.data_ptr(), tokens, d, block_eps),
        *(count, top_k, hidden, shared_hidden, sigmoid, renormalize),
        *weights,
        *(logits, places.data_ptr(), of_weights, slots, of_rows, of_weights + 4 * rows),
        of_rows + of_elements.itemsize * rows * hidden,
    )
    kept = *whole, y, of_elements, floats, places
    take_step("moe_step", x.dtype, _STAGES if shared_hidden else _STAGES[:4], numbers, kept)
    return y
