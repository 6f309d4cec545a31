"""Tensors whose dtype is what they mean, in modules that are moved or cast as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

Move = Callable[[Tensor], Tensor]  # what ``Module._apply`` is given: ``.to(…)``, ``.half()``, ``.cuda()``, …


def moved_alone(move: Move, tensor: Tensor) -> Tensor:
    """The tensor where ``move`` brings it, in its own dtype. It is never cast and back, which would round it."""
    probe = move(tensor[:0])
    return move(tensor) if probe.dtype == tensor.dtype else tensor.to(probe.device)


def dtype_after(move: Move, dtype: torch.dtype) -> torch.dtype:
    """What becomes of a tensor's dtype."""
    return move(torch.empty(0, dtype=dtype)).dtype
