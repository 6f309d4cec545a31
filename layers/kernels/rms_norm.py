"""RMS norm (arXiv 1910.07467) of tokens, and of their queries' halves.

Torch's is ten calls, and twenty with its backward pass. On a CPU one C++ call each takes their place (a decoder's step
makes two a block, and a training step of a small model is made of them), on a GPU one pass each. Nothing is kept but
what was normed.

Letters: R rows, d columns, G scales.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import part_of_another, path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient

_MOST_COLUMNS = 2**14  # of a row that a program in Triton holds


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d) of x (R, d): each row over the root of its mean square, times scale (d,). Differentiable.

    Args:
        scale: or (G, d), of which row r has number r % G.

    Raises:
        ValueError: shapes do not fit, or the rows are no multiple of G.
    """
    check_shape("x", x, (None, None), "(R, d)")
    if scale.ndim == 1:
        check_shape("scale", scale, (x.shape[1],), "(d,)")
    else:
        check_shape("scale", scale, (None, x.shape[1]), "(G, d)")
        if len(x) % len(scale):
            raise ValueError(f"{len(x)} rows are no multiple of {len(scale)} scales")
    if _by_kernels(x, scale):
        return _RmsNorm.apply(x, scale, eps) if wants_gradient(x, scale) else _rms_norm(x, scale, eps)
    if scale.ndim == 1:
        return functional.rms_norm(x, scale.shape, scale, eps)
    return (functional.rms_norm(x, x.shape[1:], eps=eps).view(-1, *scale.shape) * scale).view(x.shape)


def _by_kernels(x: Tensor, scale: Tensor) -> bool:
    """Whether one call takes the place of torch's; a compiler is left those, which it can fuse."""
    if torch.compiler.is_compiling() or x.dtype != scale.dtype or x.dtype not in ELEMENTS or not x.numel():
        return False
    path = path_of(x)
    return path == "native" or (path == "triton" and x.shape[1] <= _MOST_COLUMNS)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, scale)
        return _rms_norm(x, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale = ctx.saved_tensors
        return *_rms_norm_backward(x, scale, upstream[0], ctx.eps), None


_rms_norm = plain_operator(
    "rms_norm(Tensor x, Tensor scale, float eps) -> Tensor",
    lambda x, scale, eps: part_of_another("rms_norm", x).rms_norm(x, scale, eps),
    on=("CPU", "CUDA"),
)
_rms_norm_backward = plain_operator(
    "rms_norm_backward(Tensor x, Tensor scale, Tensor gradient, float eps) -> (Tensor, Tensor)",
    lambda x, scale, gradient, eps: part_of_another("rms_norm", x).rms_norm_backward(x, scale, gradient, eps),
    on=("CPU", "CUDA"),
)


@torch.library.register_fake("membench::rms_norm")
def _(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    del scale, eps
    return torch.empty_like(x)


@torch.library.register_fake("membench::rms_norm_backward")
def _(x: Tensor, scale: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    del gradient, eps
    return torch.empty_like(x), torch.empty_like(scale)
