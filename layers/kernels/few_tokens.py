"""Where half a decoder's block is one call: few tokens, whose time is that of reading weights and of calls."""

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.precision import product_dtype, wants_gradient

MOST_TOKENS = 8  # of more, each row of a matrix is used so often that products by tiles are faster


def can_step(x: Tensor, *weights: Tensor) -> bool:
    """Whether x (R, d) and such weights take a step's kernels: on a CPU, few rows, and nobody asks for gradients.

    A compiler is left torch's calls, which it can fuse.
    """
    if torch.compiler.is_compiling() or not 0 < len(x) <= MOST_TOKENS or wants_gradient(x, *weights):
        return False
    if product_dtype(x) != x.dtype or x.dtype not in ELEMENTS or path_of(x) != "native":
        return False
    return all(each.dtype == x.dtype and each.is_contiguous() for each in weights)
