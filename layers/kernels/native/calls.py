"""Calls into the C++ kernels: numbers for dtypes, addresses, threads, and the check of rows that they lack."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.cpp_build import library

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as the kernels number them


def call(name: str, *arguments: object, result: type | None = None) -> Any:
    """``membench_<name>`` of the compiled kernels, which returns a ``result`` of ctypes, or nothing."""
    kernels = library()
    assert kernels is not None
    function = getattr(kernels, f"membench_{name}")
    function.restype = result
    return function(*arguments)


def threads() -> ctypes.c_int:
    """As many as torch takes."""
    return ctypes.c_int(torch.get_num_threads())


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of its elements; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def check_rows(rows: Tensor, count: int) -> None:
    """Where torch would refuse a row that a table of so many does not have, a pointer would reach other memory.

    Raises:
        IndexError: there is such a row.
    """
    if not rows.numel():
        return
    lowest, highest = (int(end) for end in torch.aminmax(rows))
    if lowest < 0 or highest >= count:
        raise IndexError(f"row {min(lowest, 0) or highest} of a table of {count} rows")
