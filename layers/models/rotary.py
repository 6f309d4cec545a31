"""Rotary positions (arXiv 2104.09864): pairs of numbers are turned by an angle that grows with the position.

Number j of the first half of a head is paired with number j of the second, as Llama's weights want it.

Letters: S sequences, T tokens of each, c head dim.
"""

from functools import lru_cache

import torch
from torch import Tensor

POSITIONS_STEP = 1024  # angles are made for so many positions at a time


def turns(positions: int, head_dim: int, theta: float, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines (P, c) of every position from 0, the second half like the first, its sines' sign kept.

    There are at least so many positions, P, and each row lies behind the one before it.
    Angles are float64: of a position in the hundred thousands fp32 keeps too little.
    """
    return _turns(-(-positions // POSITIONS_STEP) * POSITIONS_STEP, head_dim, theta, dtype, device)


@lru_cache(maxsize=8)
def _turns(positions: int, head_dim: int, theta: float, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # kept for training, too
        pairs = torch.arange(head_dim // 2, dtype=torch.float64)
        speeds = theta ** (-2 * pairs / head_dim)
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * speeds
        cosines, sines = angles.cos(), angles.sin()
        both = torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1)
        return both[0].to(device, dtype), both[1].to(device, dtype)


@lru_cache(maxsize=64)
def turns_at(position: int, head_dim: int, theta: float, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Those (c,) of one position, which all blocks of a step ask for."""
    cosines, sines = turns(position + 1, head_dim, theta, dtype, device)
    with torch.inference_mode(False):
        return cosines[position], sines[position]


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x (…, T, c), each token turned by its position's angles (T, c)."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([second, first], dim=-1) * sines
