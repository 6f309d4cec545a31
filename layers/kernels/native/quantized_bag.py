"""Bags of quantized rows in C++: some rows at a time, widened in registers as they arrive from memory."""

import ctypes

import torch
from torch import Tensor

from layers.kernels.native.build import library
from layers.kernels.plain import quantized_bag as plain

_ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def quantized_bag(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``layers.kernels.quantized_bag.quantized_bag``."""
    if dtype not in _ELEMENTS or not table.is_contiguous():
        return plain.quantized_bag(table, scales, rows, weights, dtype)
    kernels = library()
    assert kernels is not None
    rows, weights, scales = rows.long().contiguous(), weights.float().contiguous(), scales.contiguous()
    bags = torch.empty(rows.shape[0], table.shape[1], dtype=dtype)
    kernels.membench_quantized_bag(
        ctypes.c_int(table.dtype == torch.float8_e4m3fn),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (table, scales, rows, weights)),
        *map(ctypes.c_int64, (*rows.shape, table.shape[1])),
        ctypes.c_int(_ELEMENTS[dtype]),
        ctypes.c_void_p(bags.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )
    return bags
