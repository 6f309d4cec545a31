"""A short name of a call's answer: equal digests mean bit-equal outputs and gradients.

A layer that was compared with the reference once need not be compared again in another process that gives
the same digest.
"""

import hashlib

import torch
from torch import Tensor

from membench.layers.layer import Layer, Routing
from membench.layers.parallel.cut_tensors import is_cut, own_part

_LANES = 2**13  # int64 words a row
_ROWS = 64  # that become one before they are hashed: one pass at the speed of memory, and few bytes to hash
_BLOCKS = 16  # at a time: what their rows become stays in a cache
_ODD = 0x369DEA0F31A53F85  # a multiplier of 64 bits (L'Ecuyer, Mathematics of Computation 68, 1999)


class Digest:
    """Of named tensors, in the order in which they are added. Memory of CUDA is added up where it is."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @torch.no_grad()
    def add(self, name: str, tensor: Tensor | None) -> None:
        """Every bit of a tensor; None is another thing than an empty one."""
        if tensor is None:
            self._hash.update(f"{name}: none\n".encode())
        elif is_cut(tensor):
            self.add(name, own_part(tensor.detach()))
        elif tensor.layout != torch.strided:
            tensor = tensor.detach().coalesce()
            self.add(f"{name} indices", tensor.indices())
            self.add(f"{name} values", tensor.values())
        else:
            self._hash.update(f"{name}: {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            self._add_bytes(tensor.detach())

    def add_answer(self, layer: Layer, y: Tensor) -> None:
        """y, and in training mode the loss that a router adds."""
        self.add("y", y)
        self.add("auxiliary loss", layer.auxiliary_loss)

    def add_gradients(self, layer: Layer, x: Tensor, routing: Routing | None) -> None:
        """What a backward pass left: of x, of the routing's weights, of every parameter and of the rows read."""
        self.add("dx", x.grad)
        self.add("dweights", None if routing is None or routing.weights is None else routing.weights.grad)
        for name, parameter in layer.named_parameters():
            self.add(name, parameter.grad)
        for number, table in enumerate(layer.tables()):
            gradient = table.gradient
            self.add(f"table {number} rows", None if gradient is None else gradient.rows)
            self.add(f"table {number} values", None if gradient is None else gradient.values)

    def _add_bytes(self, tensor: Tensor) -> None:
        """All bytes: whole blocks of words with their rows mixed into one, each lane by itself; the rest as they are.

        A row is multiplied in, and high bits are added to low ones, before the next one comes: it matters which bit of
        which row differs, and differences do not cancel but by chance.
        """
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        block_bytes = _ROWS * _LANES * torch.int64.itemsize
        whole = flat.numel() // block_bytes * block_bytes
        if whole:
            if flat.storage_offset() % torch.int64.itemsize:
                flat = flat.clone()
            for blocks in flat[:whole].view(torch.int64).view(-1, _ROWS, _LANES).split(_BLOCKS):
                mixed = torch.zeros_like(blocks[:, 0])
                for row in range(_ROWS):
                    mixed.mul_(_ODD).add_(blocks[:, row])
                    mixed.add_(mixed >> 29)
                self._hash.update(mixed.cpu().numpy().data)
        self._hash.update(flat[whole:].cpu().numpy().data)

    def hexdigest(self) -> str:
        """Of all that was added, 32 hexadecimal digits."""
        return self._hash.hexdigest()[:32]
