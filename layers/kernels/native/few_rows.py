"""Products of few rows with a matrix, in C++: a decoder's step, which waits for the matrix and for nothing else.

Torch's libraries pack and reorder even one row, and start as many threads for a small matrix as for a large one. These
kernels read the matrix once, ask for what comes next, and widen bf16 and fp16 in registers; sums are of fp32.

Letters: R rows, n and m the rows and columns of the matrix.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native import grouped_matmul
from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.vendor import mkl_is_at_its_best

_SMALL = 2**16  # elements


def is_best_for(x: Tensor, weight: Tensor) -> bool:
    """Whether this kernel multiplies x (R, m) by weight (n, m) faster than others do.

    In fp32 MKL reads the matrix as fast for one row and for two, and more slowly for three to eight, on Intel's
    processors; on others more slowly for one to sixteen, but for small matrices. In bf16, where ``grouped_matmul`` is
    best, packing rows takes longer than one or two are worth, and on processors without MKL's tiles than sixteen are.
    """
    if mkl_is_at_its_best():
        few = {torch.float32: range(3, 9), torch.bfloat16: range(1, 3)}
    else:
        few = {torch.float32: range(1, 17 if weight.numel() >= _SMALL else 1), torch.bfloat16: range(1, 17)}
    if len(x) not in few.get(weight.dtype, ()) or x.dtype != weight.dtype:
        return False
    if not weight.is_contiguous() or not weight.numel():
        return False
    return grouped_matmul.is_best_for(weight) if weight.dtype == torch.bfloat16 else path_of(weight) == "native"


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """(R, n) of x (R, m) and weight (n, m), in their dtype or in fp32; written to ``out``, where it is given.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_shape("weight", weight, (None, None), "(n, m)")
    n, m = weight.shape
    check_shape("x", x, (None, m), "(R, m)")
    if x.dtype != weight.dtype or x.dtype not in ELEMENTS or dtype not in (x.dtype, torch.float32):
        raise ValueError(f"x is {x.dtype}, weight {weight.dtype}, the product {dtype}: they should be the same")
    x, weight = x.contiguous(), weight.contiguous()
    result = torch.empty(len(x), n, dtype=dtype) if out is None else out
    if result.shape != (len(x), n) or result.dtype != dtype or not result.is_contiguous():
        raise ValueError(f"out should be ({len(x)}, {n}) of {dtype}, contiguous")
    call(
        "few_rows",
        ctypes.c_int(ELEMENTS[x.dtype]),
        *map(pointer, (x, weight)),
        *map(ctypes.c_int64, (len(x), n, m)),
        ctypes.c_bool(dtype != x.dtype),
        pointer(result),
        threads(),
    )
    return result
