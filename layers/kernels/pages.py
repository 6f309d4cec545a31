"""Memory on huge pages: random rows are read faster there, and memory that each step fills again is faster too."""

import contextlib
import ctypes
import mmap
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

HUGE_PAGE_BYTES = 2**21


def allocate(num_rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a table; on a Linux CPU a private mapping that asks for huge pages."""
    num_bytes = num_rows * columns * dtype.itemsize
    if sys.platform != "linux" or device.type != "cpu" or num_bytes < HUGE_PAGE_BYTES:
        return torch.empty(num_rows, columns, dtype=dtype, device=device)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages; the mapping works with small ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(num_rows, columns)


def asked_for_huge_pages(tensor: Tensor) -> Tensor:
    """The tensor, whose memory was not written to yet. On a Linux CPU, asks the kernel for huge pages.

    An allocator returns large blocks to the system. The pages of a new block are zeroed at their first use, with one
    page fault each, so larger pages cause fewer faults.
    """
    first = -(-tensor.data_ptr() // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    length = (tensor.data_ptr() + tensor.nbytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES - first
    if sys.platform == "linux" and tensor.device.type == "cpu" and length > 0:
        # a kernel without huge pages refuses; small ones work
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return tensor


def on_huge_pages(tensor: Tensor) -> bool:
    """Whether most of the memory of a tensor that was written to lies on huge pages, as the kernel reports it."""
    if tensor.nbytes < HUGE_PAGE_BYTES:  # the kernel's report takes long to read
        return False
    try:
        account = Path("/proc/self/smaps").read_text(encoding="utf-8")
    except OSError:
        return False
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    mappings = re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*?^AnonHugePages: +(\d+) kB", account, re.MULTILINE | re.DOTALL)
    mapped = huge = 0
    for low, high, kib in (mapping.groups() for mapping in mappings):
        if int(low, 16) < end and int(high, 16) > start:
            mapped += int(high, 16) - int(low, 16)
            huge += int(kib) * 1024
    return 2 * huge > mapped
