"""Bags of quantized rows in C++."""

import torch
from torch import Tensor

from membench.layers.kernels.native.bags import bags, computable
from membench.layers.kernels.paths import handed_on


def quantized_bag(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``layers.kernels.quantized_bag.quantized_bag``."""
    if not computable(table, dtype):
        return handed_on("quantized_bag").quantized_bag(table, scales, rows, weights, dtype)
    return bags(table, scales, rows, weights, dtype)
