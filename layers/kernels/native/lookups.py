"""Runs of equal rows, by a radix sort over only the bits that row numbers have."""

import ctypes

import torch
from torch import Tensor

from layers.kernels.native.build import library
from layers.kernels.plain import lookups as plain


def find_runs(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, starts, order) of ``layers.kernels.lookups.Runs``."""
    kernels = library()
    assert kernels is not None
    if num_rows > 2**32:
        return plain.find_runs(rows, num_rows)
    given, count = rows.long().contiguous(), len(rows)
    distinct = torch.empty(count, dtype=torch.int64)
    starts, order = torch.empty(count + 1, dtype=torch.int32), torch.empty(count, dtype=torch.int32)
    find = kernels.membench_find_runs
    find.restype = ctypes.c_int64
    found = find(
        ctypes.c_void_p(given.data_ptr()),
        ctypes.c_int64(count),
        ctypes.c_int((num_rows - 1).bit_length()),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (distinct, starts, order)),
    )
    return distinct[:found].to(rows.dtype), starts[: found + 1].clone(), order
