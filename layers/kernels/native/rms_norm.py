"""RMS norm in C++: one pass over rows that lie in the cache."""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """(R, d) of x (R, d) and scale (d,) or (G, d), of x's dtype; each thread norms some rows."""
    x, scale = x.contiguous(), scale.contiguous()
    normed = torch.empty_like(x)
    call(
        "rms_norm",
        ctypes.c_int(ELEMENTS[x.dtype]),
        *map(pointer, (x, scale)),
        *_sizes(x, scale),
        ctypes.c_double(eps),
        pointer(normed),
        threads(),
    )
    return normed


def rms_norm_backward(x: Tensor, scale: Tensor, gradient: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradients of x and scale by that of what was normed (R, d); the factors are taken again from x."""
    x, scale, gradient = x.contiguous(), scale.contiguous(), gradient.contiguous()
    of_x, of_scale = torch.empty_like(x), torch.empty_like(scale)
    call(
        "rms_norm_backward",
        ctypes.c_int(ELEMENTS[x.dtype]),
        *map(pointer, (x, scale, gradient)),
        *_sizes(x, scale),
        ctypes.c_double(eps),
        *map(pointer, (of_x, of_scale)),
        threads(),
    )
    return of_x, of_scale


def _sizes(x: Tensor, scale: Tensor) -> list[ctypes.c_int64]:
    rows, columns = x.shape
    return [ctypes.c_int64(size) for size in (rows, columns, scale.numel() // columns)]


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
