"""Tensors larger than this machine's memory, of which only the pages that are written exist."""

import mmap
from pathlib import Path

import torch


def mapped(rows, columns, dtype):
    """(rows, columns) of zeros.

    Raises:
        OSError: there is no address space for it.
    """
    memory = mmap.mmap(-1, rows * columns * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(rows, columns)


def resident_bytes():
    """What this process holds of the machine's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
