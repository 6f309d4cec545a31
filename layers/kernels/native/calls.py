"""What calls into the C++ kernels share: numbers for dtypes, addresses, and the check of rows that they lack."""

import ctypes

import torch
from torch import Tensor

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as the kernels number them


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of its elements; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def check_rows(rows: Tensor, table: Tensor) -> None:
    """Where torch would refuse a row that the table does not have, a pointer would reach other memory.

    Raises:
        IndexError: there is such a row.
    """
    if not rows.numel():
        return
    lowest, highest = (int(end) for end in torch.aminmax(rows))
    if lowest < 0 or highest >= len(table):
        raise IndexError(f"row {min(lowest, 0) or highest} of a table of {len(table)} rows")
