"""Product-key top-k in C++: each list read once, most scores compared with the k-th best so far and left."""

import ctypes

import torch
from torch import Tensor

from layers.kernels.native.build import library


def product_key_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """As ``layers.kernels.top_k.product_key_top_k``."""
    kernels = library()
    assert kernels is not None
    scores = scores.float().contiguous()
    heads, _, tokens, sub_keys = scores.shape
    halves = torch.empty(2, tokens, heads, top_k, dtype=torch.int32)
    weights = torch.empty(tokens, heads, top_k)
    kernels.membench_product_key_top_k(
        ctypes.c_void_p(scores.data_ptr()),
        *map(ctypes.c_int64, (heads, tokens, sub_keys, top_k)),
        ctypes.c_void_p(halves.data_ptr()),
        ctypes.c_void_p(weights.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )
    return halves, weights
