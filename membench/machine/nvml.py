"""NVML, asked about the very GPU that torch uses. What it does not tell is None."""

from collections.abc import Callable
from typing import Any

import pynvml


def handle() -> Any | None:
    """NVML's handle of torch's current device, found by UUID: CUDA_VISIBLE_DEVICES renumbers one and not the other."""
    import torch

    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None


def ask(question: Callable[..., Any], *arguments: Any) -> Any | None:
    """The answer, or None where this GPU or driver has none."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None
