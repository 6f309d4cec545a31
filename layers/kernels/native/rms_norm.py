"""RMS norm in C++: one pass over rows that lie in the cache."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d) of x (R, d) and scale (d,), of x's dtype; each thread norms some rows."""
    x, scale = x.contiguous(), scale.contiguous()
    normed = torch.empty_like(x)
    call(
        "rms_norm",
        ctypes.c_int(ELEMENTS[x.dtype]),
        *map(pointer, (x, scale)),
        *map(ctypes.c_int64, x.shape),
        ctypes.c_double(eps),
        pointer(normed),
        threads(),
    )
    return normed


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """(R,) fp32 of x (R, d): what each row is multiplied by to be normed."""
    x = x.contiguous()
    found = torch.empty(len(x), dtype=torch.float32)
    call(
        "inverse_rms",
        ctypes.c_int(ELEMENTS[x.dtype]),
        pointer(x),
        *map(ctypes.c_int64, x.shape),
        ctypes.c_double(eps),
        pointer(found),
        threads(),
    )
    return found
