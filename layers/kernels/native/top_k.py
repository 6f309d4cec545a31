"""Product-key top-k in C++: each list read once, most scores compared with the k-th best so far and left."""

import ctypes

import torch
from torch import Tensor

from layers.kernels.native.calls import call, pointer, threads


def product_key_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """As ``layers.kernels.top_k.product_key_top_k``."""
    scores = scores.float().contiguous()
    heads, _, tokens, sub_keys = scores.shape
    halves = torch.empty(2, tokens, heads, top_k, dtype=torch.int32)
    weights = torch.empty(tokens, heads, top_k)
    call(
        "product_key_top_k",
        pointer(scores),
        *map(ctypes.c_int64, (heads, tokens, sub_keys, top_k)),
        pointer(halves),
        pointer(weights),
        threads(),
    )
    return halves, weights
