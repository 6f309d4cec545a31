"""Reads rows and does nothing else: the most that a CPU can do, to compare other passes over rows with."""

import ctypes

from torch import Tensor

from membench.layers.kernels.native.calls import call, check_rows, pointer, threads


def read_rows(table: Tensor, rows: Tensor) -> int:
    """All bits of the rows (M,) of a table (N, D), combined by exclusive or.

    Raises:
        IndexError: the table has no such row.
    """
    assert table.is_contiguous()
    check_rows(rows, len(table))
    rows = rows.long().contiguous()
    sizes = map(ctypes.c_int64, (len(rows), table.shape[1] * table.element_size()))
    return call("read_rows", pointer(table), pointer(rows), *sizes, threads(), result=ctypes.c_uint64)
