"""Where a layer or a block is one C++ call: on a CPU, of few tokens, and nobody asks for gradients.

What such a step reads, it reads in a millisecond or less, and the ways between its parts, through Python and torch,
take as long again: they are cold, as the weights have gone through the caches.

Letters: B tokens, d model dim.
"""

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.precision import product_dtype, wants_gradient
from membench.layers.kernels.vendor import mkl_is_at_its_best


def most_tokens(by_mkl: int, by_others: int) -> int:
    """So many tokens are few: of more, a matrix's rows are used so often that products by tiles are faster.

    Which are few is measured, apart for processors where MKL's tiles are fast.
    """
    return by_mkl if mkl_is_at_its_best() else by_others


MOST_TOKENS = most_tokens(8, 32)


def can_step(x: Tensor, *weights: Tensor, most: int = MOST_TOKENS) -> bool:
    """Whether one C++ call computes what x (B, d) and these weights make. A compiler is left torch's calls."""
    if torch.compiler.is_compiling() or not 0 < x.shape[0] <= most or wants_gradient(x, *weights):
        return False
    return x.dtype in ELEMENTS and product_dtype(x) == x.dtype and path_of(x) == "native"
