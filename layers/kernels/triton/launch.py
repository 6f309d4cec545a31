"""Kernels are launched on the device where their tensors lie, which need not be the current one."""

from typing import Any

import torch
from torch import Tensor


def launch(on: Tensor, kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Queues the given number of programs of a kernel, on the current stream of ``on``'s device."""
    with torch.cuda.device_of(on):
        kernel[programs](*arguments, **constants)
