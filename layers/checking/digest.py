"""A short name of a call's answer: equal digests mean bit-equal outputs and gradients.

A layer that was compared with the reference once need not be compared again in another process that gives
the same digest.
"""

import hashlib
import random

import torch
from torch import Tensor

from membench.layers.layer import Layer, Routing

_LANES = 2**13  # int64 words a row
_ROWS = 64  # that are added up before they are hashed: one pass at the speed of memory, and few bytes to hash
# A sum is multiplied before each row, so that rows which change places change it; by an odd factor, so that no bit is
# lost. Its high bits are then added to the low ones: a product alone sees a word's highest bit only as odd or even.
_FACTOR = random.Random(0).getrandbits(62) | 1
_FOLD = 29


class Digest:
    """Of named tensors, in the order in which they are added. Memory of CUDA is added up where it is."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @torch.no_grad()
    def add(self, name: str, tensor: Tensor | None) -> None:
        """Every bit of a tensor; None is another thing than an empty one."""
        if tensor is None:
            self._hash.update(f"{name}: none\n".encode())
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
        """All bytes: whole blocks of words as sums of their rows in turn, which wrap around; the rest as they are."""
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        block_bytes = _ROWS * _LANES * torch.int64.itemsize
        whole = flat.numel() // block_bytes * block_bytes
        if whole:
            if flat.storage_offset() % torch.int64.itemsize:
                flat = flat.clone()
            words = flat[:whole].view(torch.int64).view(-1, _ROWS, _LANES)
            sums = torch.zeros(len(words), _LANES, dtype=torch.int64, device=words.device)
            for row in range(_ROWS):
                sums.mul_(_FACTOR).add_(words[:, row])
                sums.add_(sums >> _FOLD)
            self._hash.update(sums.cpu().numpy().data)
        self._hash.update(flat[whole:].cpu().numpy().data)

    def hexdigest(self) -> str:
        """Of all that was added, 32 hexadecimal digits."""
        return self._hash.hexdigest()[:32]
