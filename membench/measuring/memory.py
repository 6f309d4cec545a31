"""Memory by kind: exact bytes of weights, gradients, optimizer state and saved activations; peaks."""

import ctypes
import gc
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from membench.files import read_text
from membench.layers.layer import Layer
from membench.layers.parallel.cut_tensors import own_part


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once; of sparse ones their indices and values, of cut ones this process's part."""
    storages, tensors = {}, map(own_part, tensors)
    for tensor in chain.from_iterable((t._indices(), t._values()) if t.is_sparse else (t,) for t in tensors):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = min(storage.nbytes(), tensor.nbytes if tensor.is_contiguous() else sys.maxsize)
    return sum(storages.values())


def weights_bytes(layer: Layer) -> int:
    """All parameters."""
    return tensor_bytes(layer.parameters())


def gradient_bytes(layer: Layer) -> int:
    """Gradients as they are: dense ones, and touched rows with their indices."""
    total = tensor_bytes(p.grad for p in layer.parameters() if p.grad is not None)
    for table in {id(table): table for table in layer.tables()}.values():
        if table.gradient is not None:
            total += table.gradient.values.nbytes + table.gradient.rows.nbytes
    return total


class SavedForBackward:
    """Counts the bytes autograd keeps for the backward, parameters left out. A context manager."""

    def __init__(self, layer: Layer) -> None:
        self._own = {own_part(p).untyped_storage().data_ptr() for p in layer.parameters()}
        self._kept: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = own_part(tensor).untyped_storage()
        if storage.data_ptr() not in self._own:
            self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> "SavedForBackward":
        self._hooks.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._hooks.__exit__(*reason)

    @property
    def bytes(self) -> int:
        return sum(self._kept.values())


def release_freed_memory() -> None:
    """Give back what malloc keeps of freed memory, so that the check does not count as the layer's peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def reset_peak(device: str) -> None:
    """Forget the peak so far, where the system allows it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_bytes(device: str, besides: int) -> dict[str, int | None]:
    """Peaks since the last reset: resident memory of the process, and what the CUDA allocator held.

    ``besides`` are bytes on the device that are the instrument's, not the layer's.
    """
    cuda = device == "cuda"
    return {
        "peak_process_bytes": _peak_resident_bytes(),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() - besides if cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
    }


def _peak_resident_bytes() -> int:
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
