"""Calls into the C++ kernels: numbers for dtypes, addresses, threads, and the check of row numbers."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.cpp_build import library

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # the numbers that the kernels use


def call(name: str, *arguments: object, result: type | None = None) -> Any:
    """``membench_<name>`` of the compiled kernels, which returns a ``result`` of ctypes, or nothing."""
    return function(name, result)(*arguments)


@cache
def function(name: str, result: type | None) -> Any:
    """``membench_<name>``, as ``call`` calls it."""
    kernels = library()
    assert kernels is not None
    found = getattr(kernels, f"membench_{name}")
    found.restype = result
    return found


def threads() -> ctypes.c_int:
    """As many as torch uses."""
    return ctypes.c_int(torch.get_num_threads())


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of the tensor's elements; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def check_rows(rows: Tensor, count: int) -> None:
    """Refuses row numbers beyond the table: with pointers they would reach other memory.

    Raises:
        IndexError: a row number is below 0 or beyond the table.
    """
    check_numbers("row", rows, count, f"a table of {count} rows")


def check_numbers(name: str, numbers: Tensor, count: int, of: str) -> None:
    """Raises IndexError if one of these numbers of rows or experts is below 0, or not below ``count``."""
    if not numbers.numel():
        return
    lowest, highest = (int(end) for end in torch.aminmax(numbers))
    if lowest < 0 or highest >= count:
        raise IndexError(f"{name} {min(lowest, 0) or highest} of {of}")
