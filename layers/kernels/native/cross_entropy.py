"""Losses of logits in C++: no logarithm of a probability is kept, and a row without weight has no backward pass.

Shapes: ``layers.kernels.cross_entropy``. Threads share the rows.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) and (R, 2), fp32: the losses, and what the backward pass needs of each row.

    Raises:
        IndexError: a target is no token of the vocabulary.
    """
    logits, targets = logits.contiguous(), targets.contiguous()
    rows, vocabulary = logits.shape
    _check_targets(targets, vocabulary)
    losses, normalizers = (torch.empty(shape, dtype=torch.float32) for shape in ((rows,), (rows, 2)))
    call(
        "cross_entropy",
        ctypes.c_int(ELEMENTS[logits.dtype]),
        *map(pointer, (logits, targets)),
        *map(ctypes.c_int64, (rows, vocabulary)),
        *map(pointer, (normalizers, losses)),
        threads(),
    )
    return losses, normalizers


def cross_entropy_backward(gradient: Tensor, logits: Tensor, targets: Tensor, normalizers: Tensor) -> Tensor:
    """(R, V), the gradient of the logits."""
    gradient, logits, targets = gradient.contiguous(), logits.contiguous(), targets.contiguous()
    found = torch.empty_like(logits)
    call(
        "cross_entropy_backward",
        ctypes.c_int(ELEMENTS[logits.dtype]),
        *map(pointer, (gradient, logits, targets, normalizers)),
        *map(ctypes.c_int64, logits.shape),
        pointer(found),
        threads(),
    )
    return found


def _check_targets(targets: Tensor, vocabulary: int) -> None:
    """With pointers a token that does not exist would reach other memory."""
    if not targets.numel():
        return
    lowest, highest = (int(end) for end in torch.aminmax(targets))
    if lowest < 0 or highest >= vocabulary:
        raise IndexError(f"target {min(lowest, 0) or highest} of a vocabulary of {vocabulary} tokens")
