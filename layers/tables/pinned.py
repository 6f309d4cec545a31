"""Host memory that a CUDA device can read directly, and copies between the two.

Letters: U rows, D columns.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

_PORTABLE_AND_MAPPED = 1 | 2  # cudaHostRegisterPortable | cudaHostRegisterMapped
_PART_BYTES = 2**24  # a part is gathered while the one before it is copied


def pin(tensor: Tensor) -> None:
    """Pins a CPU tensor's memory in place. A pinned copy would need the memory twice, and not lie on huge pages.

    Raises:
        RuntimeError: the system refuses (too little memory, or a limit on locked memory).
    """
    cudart: Any = torch.cuda.cudart()
    status = cudart.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, _PORTABLE_AND_MAPPED)
    if int(status) != 0:
        raise RuntimeError(f"{tensor.nbytes / 1e9:.1f} GB of host memory cannot be pinned (CUDA error {int(status)})")
    weakref.finalize(tensor, cudart.cudaHostUnregister, tensor.data_ptr())


def on_host(tensor: Tensor) -> Tensor:
    """The tensor on the host, complete when this returns. A copy lies in pinned memory, which is filled faster."""
    copy = tensor.to("cpu", non_blocking=True)
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    return copy


def device_view_of(tensor: Tensor, device: torch.device) -> Tensor:
    """A CUDA tensor over the same pinned memory. A kernel reads it over the bus."""
    view = torch.as_tensor(_Addressed(tensor), device=device)
    return view.view(tensor.dtype).view(tensor.shape)


class _Addressed:
    """Bytes at an address that host and device share, in the form in which torch takes arrays of other libraries."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # kept alive
        self.__cuda_array_interface__ = {
            "shape": (tensor.nbytes,),
            "typestr": "|u1",
            "data": (tensor.data_ptr(), False),
            "version": 3,
        }


class RowCopier:
    """Copies rows of a host table (N, D) to a device, part by part through two pinned buffers."""

    def __init__(self, table: Tensor, device: torch.device) -> None:
        self._table, self._device = table, device
        self._part_rows = max(1, _PART_BYTES // (table.shape[1] * table.itemsize))
        shape = (self._part_rows, table.shape[1])
        self._buffers = [torch.empty(shape, dtype=table.dtype, pin_memory=True) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in self._buffers]

    def copy(self, rows: Tensor) -> Tensor:
        """(U, D) on the device, of rows (U,) given on the host."""
        near = torch.empty(len(rows), self._table.shape[1], dtype=self._table.dtype, device=self._device)
        parts = zip(rows.split(self._part_rows), near.split(self._part_rows), strict=True)
        for number, (wanted, target) in enumerate(parts):
            buffer, copied = self._buffers[number % 2][: len(wanted)], self._copied[number % 2]
            copied.synchronize()  # the copy of what the buffer held before has ended
            torch.index_select(self._table, 0, wanted, out=buffer)
            target.copy_(buffer, non_blocking=True)
            copied.record(torch.cuda.current_stream(self._device))
        return near
