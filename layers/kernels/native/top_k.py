"""Product-key top-k in C++: finds a threshold that few scores pass and ranks those by counting (``top_k.cpp``)."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import call, pointer, threads
from membench.layers.kernels.torch.top_k import scores_gradient

__all__ = ["product_key_top_k", "scores_gradient"]


def product_key_top_k(scores: Tensor, top_k: int, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``layers.kernels.top_k.product_key_top_k``."""
    scores = scores if scales is None else scores * scales
    scores = scores.float().contiguous()
    heads, _, tokens, sub_keys = scores.shape
    halves = torch.empty(2, tokens, heads, top_k, dtype=torch.int32)
    weights = torch.empty(tokens, heads, top_k, dtype=torch.float32)
    call(
        "product_key_top_k",
        pointer(scores),
        *map(ctypes.c_int64, (heads, tokens, sub_keys, top_k)),
        pointer(halves),
        pointer(weights),
        threads(),
    )
    return halves, weights
