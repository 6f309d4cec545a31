"""A SwiGLU beside a sparse layer, for few tokens in C++: threads share the rows of its matrices."""

import struct

from torch import Tensor

from membench.layers.kernels.in_turn import take_step

STAGES = ("companion_up", "companion_down")
_ARGUMENTS = struct.Struct("3q2qdq4q")  # ``Given`` of companion_step.cpp, which ctypes would convert one by one


def companion_step(
    x: Tensor, block_scale: Tensor | None, block_eps: float, gate_up: Tensor, down: Tensor, beside: Tensor
) -> Tensor:
    """Shapes: ``layers.kernels.companion_step``."""
    (tokens, model_dim), hidden = x.shape, down.shape[1]
    whole = [each if each is None else each.contiguous() for each in (x, block_scale, gate_up, down, beside)]
    at_x, at_scale, *read = (0 if each is None else each.data_ptr() for each in whole)
    y, between = x.new_empty(tokens, model_dim), x.new_empty(tokens, hidden)
    of_tokens = at_x, at_scale, y.data_ptr(), tokens, model_dim, block_eps
    numbers = _ARGUMENTS.pack(*of_tokens, hidden, *read, between.data_ptr())
    take_step("companion_step", x.dtype, STAGES, numbers, (*whole, y, between))
    return y
