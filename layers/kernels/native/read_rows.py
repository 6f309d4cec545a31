"""Reads rows and nothing else: what a CPU can do at most, to measure passes over rows against."""

import ctypes

import torch
from torch import Tensor

from layers.kernels.native.build import library
from layers.kernels.native.calls import check_rows, pointer


def read_rows(table: Tensor, rows: Tensor) -> int:
    """All bits of the rows (M,) of a table (N, D), combined by exclusive or.

    Raises:
        IndexError: the table has no such row.
    """
    kernels = library()
    assert kernels is not None and table.is_contiguous()
    check_rows(rows, table)
    rows = rows.long().contiguous()
    read = kernels.membench_read_rows
    read.restype = ctypes.c_uint64
    sizes = map(ctypes.c_int64, (len(rows), table.shape[1] * table.element_size()))
    return read(pointer(table), pointer(rows), *sizes, ctypes.c_int(torch.get_num_threads()))
