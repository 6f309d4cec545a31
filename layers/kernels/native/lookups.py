"""Runs of equal rows: by counts of each row's lookups, where few rows are read often, or by a radix sort."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import call, check_rows, pointer
from membench.layers.kernels.paths import handed_on


def find_runs(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, starts, order) of ``layers.kernels.lookups.Runs``.

    Raises:
        IndexError: a row number is beyond the table. (The sort looks only at the bits that valid row numbers have.)
    """
    check_rows(rows, num_rows)
    if num_rows > 2**32:
        return handed_on("lookups").find_runs(rows, num_rows)
    given, count = rows.contiguous(), len(rows)
    distinct = given.new_empty(count + 1)
    starts, order = torch.empty(count + 1, dtype=torch.int32), torch.empty(count, dtype=torch.int32)
    found = call(
        "find_runs",
        pointer(given),
        ctypes.c_int(given.dtype == torch.int64),
        ctypes.c_int64(count),
        ctypes.c_int64(num_rows),
        *map(pointer, (distinct, starts, order)),
        result=ctypes.c_int64,
    )
    return distinct[:found].clone(), starts[: found + 1].clone(), order
