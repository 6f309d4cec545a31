"""Rotary positions (arXiv 2104.09864): pairs of numbers are turned by an angle that grows with the position.

Number j of the first half of a head is paired with number j of the second, as Llama's weights want it.

Letters: S sequences, T tokens of each, c head dim.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def turns(positions: int, head_dim: int, theta: float, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines (positions, c) of every position from 0, the second half like the first, its sines' sign kept.

    Angles are float64: of a position in the hundred thousands fp32 keeps too little.
    """
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    speeds = theta ** (-2 * pairs / head_dim)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * speeds
    cosines, sines = angles.cos(), angles.sin()
    both = torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1)
    return both[0].to(device, dtype), both[1].to(device, dtype)


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x (…, T, c), each token turned by its position's angles (T, c)."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([second, first], dim=-1) * sines
