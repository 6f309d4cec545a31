"""RMS norm (arXiv 1910.07467) of tokens, of their queries' halves, and what it is to keys that are only scored.

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
from membench.layers.kernels.precision import at_least_fp32, wants_gradient

_MOST_COLUMNS = 2**14  # of a row that a program in Triton holds


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d) of x (R, d): each row over the root of its mean square, times scale (d,). Differentiable.

    Args:
        x: of the scale's dtype; or narrower, and then it is normed and returned in the scale's.
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
    if _is_narrower(x, scale) and not _widened_by_kernels(x, scale):
        x = x.to(scale.dtype)
    if _by_kernels(x, scale):
        return _RmsNorm.apply(x, scale, eps) if wants_gradient(x, scale) else _rms_norm(x, scale, eps)
    if scale.ndim == 1:
        return functional.rms_norm(x, scale.shape, scale, eps)
    return (functional.rms_norm(x, x.shape[1:], eps=eps).view(-1, *scale.shape) * scale).view(x.shape)


def rms_norm_scaled_twice(x: Tensor, scale: Tensor, other: Tensor, eps: float) -> Tensor:
    """(R, d) in fp32 at least: as ``rms_norm``, with scale∘other (G, d), which Triton multiplies as it reads them."""
    if not _scales_twice(x, scale, other):
        return rms_norm(x, at_least_fp32(scale) * at_least_fp32(other), eps)
    if wants_gradient(x, scale, other):
        return _RmsNormScaledTwice.apply(x, scale, other, eps)
    return _rms_norm_scaled_twice(x, scale, other, eps, False)


def rms_norm_in_parts(x: Tensor, scale: Tensor, other: Tensor, eps: float) -> Tensor | None:
    """(R, 3d) bf16: the three parts of ``rms_norm_scaled_twice``, written in its pass where a GPU makes it.

    None where several passes make it, and where it needs a gradient.
    """
    if wants_gradient(x, scale, other) or not _scales_twice(x, scale, other):
        return None
    return _rms_norm_scaled_twice(x, scale, other, eps, True)


def _scales_twice(x: Tensor, scale: Tensor, other: Tensor) -> bool:
    """Whether one pass of Triton norms and multiplies by both."""
    by_triton = not torch.compiler.is_compiling() and have_kernel(x) and path_of(x) == "triton"
    return by_triton and {scale.dtype, other.dtype} <= ELEMENTS.keys()


def _by_kernels(x: Tensor, scale: Tensor) -> bool:
    """Whether one call takes the place of torch's; a compiler is left those, which it can fuse."""
    if torch.compiler.is_compiling() or not have_kernel(x):
        return False
    return x.dtype == scale.dtype or _widened_by_kernels(x, scale)


def _widened_by_kernels(x: Tensor, scale: Tensor) -> bool:
    """Whether x may be of fewer bits than what is made of it: Triton reads each in its own dtype."""
    if torch.compiler.is_compiling() or scale.dtype not in ELEMENTS or not _is_narrower(x, scale):
        return False
    return have_kernel(x) and path_of(x) == "triton"


def _is_narrower(x: Tensor, scale: Tensor) -> bool:
    return x.dtype != scale.dtype == torch.promote_types(x.dtype, scale.dtype)


def have_kernel(x: Tensor) -> bool:
    """Whether C++ or Triton reads rows x (…, d); else torch's calls do."""
    if x.dtype not in ELEMENTS or not x.numel():
        return False
    path = path_of(x)
    return path == "native" or (path == "triton" and x.shape[-1] <= _MOST_COLUMNS)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """(R,) fp32 of x (R, d), which ``have_kernel``: one over the root of each row's mean square, plus eps."""
    return _inverse_rms(x, eps)


def across_rows(gradient: Tensor, x: Tensor, inverse_rms: Tensor) -> Tensor:
    """(R, d), of x's dtype: g - x·(r²/d)·(x·g), the gradient of rows that were scored as if they were normed.

    Args:
        gradient: (R, d) of x·r, times r: g.
        x: (R, d), which ``have_kernel`` of Triton.
        inverse_rms: (R,) fp32: r.
    """
    return _across_rows(gradient, x, inverse_rms)


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


class _RmsNormScaledTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, other: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, scale, other)
        return _rms_norm_scaled_twice(x, scale, other, eps, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *_rms_norm_scaled_twice_backward(*ctx.saved_tensors, upstream[0], ctx.eps), None


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


_rms_norm_scaled_twice = plain_operator(
    "rms_norm_scaled_twice(Tensor x, Tensor scale, Tensor other, float eps, bool in_parts) -> Tensor",
    lambda x, *given: part_of_another("rms_norm", x).rms_norm_scaled_twice(x, *given),
    on=("CPU", "CUDA"),
)
_rms_norm_scaled_twice_backward = plain_operator(
    "rms_norm_scaled_twice_backward(Tensor x, Tensor scale, Tensor other, Tensor gradient, float eps)"
    " -> (Tensor, Tensor, Tensor)",
    lambda x, *given: part_of_another("rms_norm", x).rms_norm_scaled_twice_backward(x, *given),
    on=("CPU", "CUDA"),
)
_inverse_rms = plain_operator(
    "inverse_rms(Tensor x, float eps) -> Tensor",
    lambda x, eps: part_of_another("rms_norm", x).inverse_rms(x, eps),
    on=("CPU", "CUDA"),
)
_across_rows = plain_operator(
    "across_rows(Tensor gradient, Tensor x, Tensor inverse_rms) -> Tensor",
    lambda gradient, x, inverse_rms: part_of_another("rms_norm", x).across_rows(gradient, x, inverse_rms),
    on=("CPU", "CUDA"),
)


@torch.library.register_fake("membench::rms_norm")
def _(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    del eps
    return torch.empty_like(x, dtype=scale.dtype)


@torch.library.register_fake("membench::rms_norm_backward")
def _(x: Tensor, scale: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    del gradient, eps
    return torch.empty_like(x), torch.empty_like(scale)


@torch.library.register_fake("membench::rms_norm_scaled_twice")
def _(x: Tensor, scale: Tensor, other: Tensor, eps: float, in_parts: bool) -> Tensor:
    del scale, other, eps
    if in_parts:
        return x.new_empty((x.shape[0], 3 * x.shape[1]), dtype=torch.bfloat16)
    return torch.empty_like(x, dtype=torch.float32)


@torch.library.register_fake("membench::rms_norm_scaled_twice_backward")
def _(x: Tensor, scale: Tensor, other: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    del gradient, eps
    return torch.empty_like(x), torch.empty_like(scale), torch.empty_like(other)


@torch.library.register_fake("membench::inverse_rms")
def _(x: Tensor, eps: float) -> Tensor:
    del eps
    return x.new_empty(x.shape[0], dtype=torch.float32)


@torch.library.register_fake("membench::across_rows")
def _(gradient: Tensor, x: Tensor, inverse_rms: Tensor) -> Tensor:
    del gradient, inverse_rms
    return torch.empty_like(x)
