"""Keys and values of the tokens that a decoder has seen.

Letters: S sequences, g key and value heads, c head dim, C tokens that are there, T new ones.
"""

from typing import Self

import torch
from torch import Tensor

from membench.layers.initialize import fill_normal_


class KVCache:
    """``keys`` and ``values`` (S, g, capacity, c) of one block. New tokens are written from position ``held`` on.

    ``held`` stays where it is until ``advance``: a step that is repeated writes the same places again.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.held = keys, values, 0

    @classmethod
    def empty(
        cls,
        sequences: int,
        heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Self:
        """One that holds nothing, and whose memory nobody has written yet."""
        shape = (sequences, heads, capacity, head_dim)
        return cls(*(torch.empty(shape, dtype=dtype, device=device) for _ in range(2)))

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def capacity(self) -> int:
        """Tokens of a sequence that there is room for."""
        return self.keys.shape[2]

    def fill(self, tokens: int, generator: torch.Generator) -> None:
        """Random keys and values of unit variance everywhere, of which so many tokens of each sequence are held."""
        for part in (self.keys, self.values):
            fill_normal_(part, 1.0, generator)
        self.held = tokens

    def write(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Puts in the new tokens' (S, g, T, c). Returns views (S, g, C + T, c) of all.

        Raises:
            ValueError: there is no room for them.
        """
        self.place(keys.shape[2])
        end = self.held + keys.shape[2]
        self.keys[:, :, self.held : end].copy_(keys)
        self.values[:, :, self.held : end].copy_(values)
        return self.keys[:, :, :end], self.values[:, :, :end]

    def place(self, tokens: int) -> tuple[Tensor, Tensor]:
        """All keys and values, with room for so many new tokens from ``held`` on.

        Raises:
            ValueError: there is none.
        """
        if (end := self.held + tokens) > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens of a sequence, not {end}")
        return self.keys, self.values

    def context(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens that are held."""
        return self.keys[:, :, : self.held], self.values[:, :, : self.held]

    def advance(self, tokens: int) -> None:
        """What was written last is kept: the next tokens come after it."""
        self.held += tokens
