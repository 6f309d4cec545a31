"""Products of rows sorted by expert with their experts' matrices, in C++.

Of bf16, on processors without bf16 units: there torch's libraries widen whole matrices first, or reorder them for a
single product, which takes longer than reading them. These kernels read each matrix once and widen it in registers;
sums are of fp32. On a processor that multiplies bf16 numbers itself, torch's libraries do more in a cycle than these
kernels could.

Of fp32, for experts of few rows: torch has a product for each, and the way to one takes longer than it does.

Shapes and meaning: ``layers.kernels.torch.grouped_matmul``. One matrix is a group of its own.

Letters: E experts, R rows, B tokens, n and m the widths of a matrix.
"""

import ctypes
import platform
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_integers, check_shape
from membench.layers.kernels.native.calls import ELEMENTS, call, check_rows, pointer, threads
from membench.layers.kernels.pages import asked_for_huge_pages
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.vendor import mkl_is_at_its_best

_MOST_ROWS = {False: 32, True: 64}  # of an fp32 expert, by whether gradients follow: of more, torch is faster
_UNITS = {"avx512_bf16", "amx_bf16"}  # instructions that multiply bf16 numbers, as Linux names them


def is_best_for(weight: Tensor) -> bool:
    """Whether these kernels multiply by matrices (…, n, m), or transposed views of such, faster than torch does."""
    return weight.dtype == torch.bfloat16 and _can_multiply(weight) and _lacks_bf16_units()


def is_best_for_experts(gate_up: Tensor, down: Tensor, ends: Tensor, *, training: bool) -> bool:
    """The same of experts' matrices (E, n, m), and in fp32 of so few rows that the ways to them take long.

    Args:
        ends: (E,) where each expert's rows end.
        training: whether gradients follow, whose products are more and are written apart.
    """
    if not gate_up.dtype == down.dtype == torch.float32:
        return is_best_for(gate_up) and is_best_for(down)
    if mkl_is_at_its_best() or not (_can_multiply(gate_up) and _can_multiply(down)):
        return False
    return _rows_beside_a_row(ends) <= _MOST_ROWS[training]


def _can_multiply(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not weight.numel():
        return False
    return (weight.is_contiguous() or weight.mT.is_contiguous()) and path_of(weight) == "native"


def _rows_beside_a_row(ends: Tensor) -> float:
    """How many rows an expert has, averaged over rows: those of one that is chosen often count most."""
    counts = ends.diff(prepend=ends.new_zeros(1)).double()
    return float(counts.square().sum() / counts.sum().clamp(min=1))


@cache
def _lacks_bf16_units() -> bool:
    """Whether this is an x86 processor that cannot multiply bf16 numbers. Others have not been measured."""
    if platform.machine() not in ("x86_64", "AMD64") or sys.byteorder != "little":
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return bool(flags) and not flags & _UNITS


def grouped_linear(
    x: Tensor, weight: Tensor, ends: Tensor, token: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """(R, n) of x (R, m), or with ``token`` (R,) of x (B, m), and weight (E, n, m), which may be a transposed view.

    x and weight are fp32 or bf16. So is the result, by default like x; by a transposed view always like the weight.

    Raises:
        ValueError: shapes or dtypes do not fit, or another dtype is asked of a transposed view.
        IndexError: a token does not exist.
    """
    check_shape("weight", weight, (len(ends), None, None), "(E, n, m)")
    experts, n, m = weight.shape
    _check_rows_of("x", x, m)
    _check_dtype("weight", weight)
    _check_groups(ends, len(x if token is None else token))
    transposed = not weight.is_contiguous()
    if transposed and dtype not in (None, weight.dtype):
        raise ValueError(f"products with a transposed view are {weight.dtype}, not {dtype}")
    dtype = weight.dtype if transposed else dtype or x.dtype
    x, token, ends = x.contiguous(), _checked(token, len(x)), ends.contiguous()
    result = torch.empty(len(x if token is None else token), n, dtype=dtype)
    of_x, of_weight = (_element(x), *map(pointer, (x, token))), (_element(weight), pointer(weight))
    operands = (*of_x, *of_weight, pointer(ends), ctypes.c_int64(experts))
    if transposed:
        call("grouped_product", *operands, *map(ctypes.c_int64, (m, n)), pointer(result), threads())
    else:
        call("grouped_linear", *operands, *map(ctypes.c_int64, (n, m)), _element(result), pointer(result), threads())
    return result


def grouped_linear_gradients(
    y_gradient: Tensor,
    x: Tensor,
    ends: Tensor,
    y_token: Tensor | None = None,
    x_token: Tensor | None = None,
) -> Tensor:
    """(E, n, m), of x's dtype: each element is summed over its expert's rows and written once.

    Raises:
        ValueError: shapes or dtypes do not fit.
        IndexError: a token does not exist.
    """
    _check_rows_of("y_gradient", y_gradient, None)
    _check_rows_of("x", x, None)
    for rows in (y_gradient if y_token is None else y_token, x if x_token is None else x_token):
        _check_groups(ends, len(rows))
    y_token, x_token = _checked(y_token, len(y_gradient)), _checked(x_token, len(x))
    y_gradient, x, ends = y_gradient.contiguous(), x.contiguous(), ends.contiguous()
    sizes = len(ends), y_gradient.shape[1], x.shape[1]
    gradient = asked_for_huge_pages(torch.empty(sizes, dtype=x.dtype))
    call(
        "grouped_gradients",
        *(_element(y_gradient), *map(pointer, (y_gradient, y_token))),
        *(_element(x), *map(pointer, (x, x_token))),
        pointer(ends),
        *map(ctypes.c_int64, sizes),
        _element(gradient),
        pointer(gradient),
        threads(),
    )
    return gradient


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, n) of x (R, m) and one matrix (n, m), which may be a transposed view."""
    return grouped_linear(x, weight[None], _one_group(x), dtype=dtype)


def linear_gradients(y_gradient: Tensor, x: Tensor) -> Tensor:
    """(n, m) of y_gradient (R, n) and x (R, m), the gradient of one matrix."""
    return grouped_linear_gradients(y_gradient, x, _one_group(x))[0]


def _one_group(x: Tensor) -> Tensor:
    return torch.tensor([len(x)], dtype=torch.int32)


def _check_rows_of(name: str, tensor: Tensor, width: int | None) -> None:
    check_shape(name, tensor, (None, width), "(rows, width)")
    _check_dtype(name, tensor)


def _check_dtype(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"{name} should be torch.float32 or torch.bfloat16, not {tensor.dtype}")


def _check_groups(ends: Tensor, rows: int) -> None:
    check_integers("ends", ends, wide=False)
    last = int(ends[-1]) if len(ends) else 0
    if last != rows:
        raise ValueError(f"the last of ends should be the number of rows, {rows}, not {last}")


def _element(tensor: Tensor) -> ctypes.c_int:
    return ctypes.c_int(ELEMENTS[tensor.dtype])


def _checked(token: Tensor | None, count: int) -> Tensor | None:
    """Raises IndexError if there is no such row, ValueError for other numbers: pointers would read other memory."""
    if token is None:
        return None
    if token.dtype != torch.int64:
        raise ValueError(f"token should be torch.int64, not {token.dtype}")
    check_rows(token, count)
    return token.contiguous()
