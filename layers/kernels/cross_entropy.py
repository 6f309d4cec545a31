"""The negative log-likelihood of a token after each row of logits, in fp32 whatever their dtype.

Torch on a CPU forms all logarithms of probabilities, keeps them, and takes their exponentials again, row by row
whether the loss counts the row or not. Tasks that score a few tokens of many make most of that for nothing.

Letters: R rows, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native import cross_entropy as native
from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(R,) fp32: -ln of the probability that logits (R, V) give to targets (R,), int64. Differentiable.

    Raises:
        ValueError: shapes do not fit, or targets are not int64.
        IndexError: on a CPU, if a target is no token of the vocabulary.
    """
    check_shape("logits", logits, (None, None), "(R, V)")
    check_shape("targets", targets, (logits.shape[0],), "(R,)")
    if targets.dtype != torch.int64:
        raise ValueError(f"targets should be torch.int64, not {targets.dtype}")
    if not _by_native(logits):
        return functional.cross_entropy(logits.float(), targets, reduction="none")
    return _CrossEntropy.apply(logits, targets) if wants_gradient(logits) else _cross_entropy(logits, targets)[0]


def _by_native(logits: Tensor) -> bool:
    if torch.compiler.is_compiling() or not logits.numel():
        return False
    return logits.dtype in ELEMENTS and path_of(logits) == "native"


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        losses, normalizers = _cross_entropy(logits, targets)
        ctx.save_for_backward(logits, targets, normalizers)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return _cross_entropy_backward(*upstream, *ctx.saved_tensors), None


_cross_entropy = plain_operator(
    "cross_entropy(Tensor logits, Tensor targets) -> (Tensor, Tensor)", native.cross_entropy
)
_cross_entropy_backward = plain_operator(
    "cross_entropy_backward(Tensor gradient, Tensor logits, Tensor targets, Tensor normalizers) -> Tensor",
    native.cross_entropy_backward,
)


@torch.library.register_fake("membench::cross_entropy")
def _(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    del targets
    rows, fp32 = len(logits), torch.float32
    return logits.new_empty(rows, dtype=fp32), logits.new_empty(rows, 2, dtype=fp32)


@torch.library.register_fake("membench::cross_entropy_backward")
def _(gradient: Tensor, logits: Tensor, targets: Tensor, normalizers: Tensor) -> Tensor:
    del gradient, targets, normalizers
    return torch.empty_like(logits)
