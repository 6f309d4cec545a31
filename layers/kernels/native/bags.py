"""Bags in C++: several rows at a time, converted in registers and prefetched before they are needed."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, check_rows, pointer, threads

TABLES = {**ELEMENTS, torch.int8: 3, torch.float8_e4m3fn: 4}


def computable(table: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``bags`` can read this table."""
    known = dtype in ELEMENTS and (table.dtype == dtype or table.dtype not in ELEMENTS)
    return known and table.dtype in TABLES and table.is_contiguous()


def bags(table: Tensor, scales: Tensor | None, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, D) of ``dtype``: for each bag the sum, over its lookups, of weight · scale · row.

    Args:
        table: (N, D).
        scales: (N,); None for ones.
        rows, weights: (B, L).

    Raises:
        IndexError: the table has no such row.
    """
    check_rows(rows, len(table))
    rows, weights = rows.long().contiguous(), weights.float().contiguous()
    scales = None if scales is None else scales.contiguous()
    sums = torch.empty(rows.shape[0], table.shape[1], dtype=dtype)
    call(
        "bags",
        ctypes.c_int(TABLES[table.dtype]),
        *map(pointer, (table, scales, rows, weights)),
        *map(ctypes.c_int64, (*rows.shape, table.shape[1])),
        ctypes.c_int(ELEMENTS[dtype]),
        pointer(sums),
        threads(),
    )
    return sums
