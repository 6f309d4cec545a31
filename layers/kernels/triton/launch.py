"""Kernels are launched on the device where their tensors lie, which need not be the current one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.paths import on_gpu

Listener = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]
_listener: Listener | None = None


def launch(on: Tensor, kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Queues the given number of programs of a kernel, on the current stream of ``on``'s device."""
    if _listener is not None:
        _listener(kernel, programs, arguments, constants)
        return
    with torch.cuda.device_of(on):
        kernel[programs](*arguments, **constants)


def capability(tensor: Tensor) -> tuple[int, int]:
    """Compute capability of the GPU that computes on a tensor; (0, 0) where kernels are interpreted."""
    return torch.cuda.get_device_capability(tensor.device) if on_gpu(tensor) else (0, 0)


@contextmanager
def told_instead(listener: Listener) -> Iterator[None]:
    """Inside, ``listener`` is told of every launch of this process, and nothing is launched."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
