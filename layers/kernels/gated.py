"""values * silu(gate), as a memory's sum is gated (arXiv 2412.09764, eq. 2): one pass forward, one backward.

The two factors are kept, and silu is computed again; autograd would keep it beside them.

Letters: R rows, D columns.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import part_of_another, path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient
from membench.layers.kernels.torch import swiglu as plain


def gated(values: Tensor, gate: Tensor) -> Tensor:
    """(R, D) of both (R, D). Differentiable."""
    if not _by_kernels(values, gate):
        return plain.gated(values, gate)
    return _Gated.apply(values, gate) if wants_gradient(values, gate) else _gated(values, gate)


def _by_kernels(values: Tensor, gate: Tensor) -> bool:
    """Whether one pass takes the place of torch's calls; a compiler is left those, which it can fuse."""
    if torch.compiler.is_compiling() or values.dtype not in ELEMENTS:
        return False
    return values.dtype == gate.dtype and values.shape == gate.shape and path_of(values) != "torch"


_gated = plain_operator(
    "gated(Tensor values, Tensor gate) -> Tensor",
    lambda values, gate: part_of_another("swiglu", values).gated(values, gate),
    on=("CPU", "CUDA"),
)
_gated_backward = plain_operator(
    "gated_backward(Tensor values, Tensor gate, Tensor gradient) -> (Tensor, Tensor)",
    lambda values, gate, gradient: part_of_another("swiglu", values).gated_backward(values, gate, gradient),
    on=("CPU", "CUDA"),
)


@torch.library.register_fake("membench::gated")
def _(values: Tensor, gate: Tensor) -> Tensor:
    del gate
    return values.new_empty(values.shape)


@torch.library.register_fake("membench::gated_backward")
def _(values: Tensor, gate: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    del gradient
    return values.new_empty(values.shape), gate.new_empty(gate.shape)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(values, gate)
        return _gated(values, gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        values, gate = ctx.saved_tensors
        return _gated_backward(values, gate, upstream[0])
