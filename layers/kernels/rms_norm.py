"""RMS norm (arXiv 1910.07467) of a decoder's tokens.

Torch's on a CPU is ten calls, which a decoder's step makes twice a block. Without a gradient one C++ call takes their
place; else it is torch's, which keeps what the backward pass needs.

Letters: R rows, d columns.
"""

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native import rms_norm as native
from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.plain_operator import plain_operator
from membench.layers.kernels.precision import wants_gradient


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d) of x (R, d): each row over the root of its mean square, times scale (d,). Differentiable.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shape("x", x, (None, None), "(R, d)")
    check_shape("scale", scale, (x.shape[1],), "(d,)")
    if _by_native(x, scale):
        return _rms_norm(x, scale, eps)
    return functional.rms_norm(x, scale.shape, scale, eps)


def _by_native(x: Tensor, scale: Tensor) -> bool:
    if torch.compiler.is_compiling() or wants_gradient(x, scale):
        return False
    return x.dtype == scale.dtype and x.dtype in ELEMENTS and x.numel() > 0 and path_of(x) == "native"


_rms_norm = plain_operator("rms_norm(Tensor x, Tensor scale, float eps) -> Tensor", native.rms_norm)


@torch.library.register_fake("membench::rms_norm")
def _(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    del scale, eps
    return torch.empty_like(x)
