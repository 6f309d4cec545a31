"""A decoder's last norm and head for few tokens, in C++: each thread norms them, and multiplies rows of the head."""

import struct

from torch import Tensor

from membench.layers.kernels.in_turn import take_step

_ARGUMENTS = struct.Struct("4q3qd")  # ``Given`` of head_step.cpp, which ctypes would convert one by one


def head_step(x: Tensor, scale: Tensor, head: Tensor, eps: float) -> Tensor:
    """Shapes: ``layers.kernels.head_step``."""
    given = [each.contiguous() for each in (x, scale, head)]
    logits = x.new_empty(len(x), len(head))
    addresses = [each.data_ptr() for each in (*given, logits)]
    numbers = _ARGUMENTS.pack(*addresses, *logits.shape, x.shape[1], eps)
    take_step("head_step", x.dtype, ("head",), numbers, (*given, logits))
    return logits
