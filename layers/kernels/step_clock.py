"""The number of a table's update and what follows from it, kept where the table lies.

A CUDA graph is replayed with the numbers that it was captured with. What changes from one update to the next must
therefore lie in the device's memory, and the step itself must move it on. A clock is such memory: fp64, so that what
kernels are given is rounded once, as numbers from the host are.

Written by the host: the learning rate, weight decay, both betas, and the table's seed. The rest follows.
"""

from enum import IntEnum

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.paths import part_of_another
from membench.layers.kernels.plain_operator import plain_operator

SMALLEST = 2.0**-126  # of a factor whose logarithm is taken: an fp32's
_MIXED = 0x9E3779B1  # odd; with it, consecutive numbers and seeds give unrelated bits
_32_BITS = 0xFFFFFFFF


class Field(IntEnum):
    """Where a clock (11,) has what.

    ``TABLE_SEED`` is ``mixed_seed`` of the table's; ``ROUNDING_SEED`` the 32 bits that decide how this update rounds;
    ``RATE`` lr, of the Adams over 1 - beta1^t; ``DECAY`` 1 - lr·wd; ``LOG_DECAY`` its logarithm to base 2;
    ``CORRECTION2`` 1 / (1 - beta2^t).
    """

    NUMBER = 0
    LEARNING_RATE = 1
    WEIGHT_DECAY = 2
    BETA1 = 3
    BETA2 = 4
    TABLE_SEED = 5
    ROUNDING_SEED = 6
    RATE = 7
    DECAY = 8
    LOG_DECAY = 9
    CORRECTION2 = 10


def mixed_seed(seed: int) -> int:
    """What a clock keeps of a table's seed: 32 bits."""
    return seed * _MIXED & _32_BITS


def rounding_seed(mixed: int, number: int) -> int:
    """32 bits for update ``number`` of a table of this ``mixed_seed``."""
    return (mixed + number) * _MIXED & _32_BITS


def new_clock(device: torch.device) -> Tensor:
    """(11,) fp64 zeros: of a table that was never updated. The host writes its part before the first update."""
    return torch.zeros(len(Field), dtype=torch.float64, device=device)


def advance_(clock: Tensor, *, adam: bool) -> None:
    """Moves a clock (11,) fp64 on to the next update; ``adam``: of a rule that corrects its rate by beta1^t.

    Raises:
        ValueError: it is no clock.
    """
    check_clock(clock)
    _advance(clock, adam)


def check_clock(clock: Tensor) -> None:
    """Raises ValueError where a tensor is no clock."""
    check_shape("clock", clock, (len(Field),), "(11,)")
    if clock.dtype != torch.float64:
        raise ValueError(f"clock should be float64, not {clock.dtype}")


_advance = plain_operator(
    "advance_clock_(Tensor(a!) clock, bool adam) -> ()",
    lambda clock, adam: part_of_another("step_clock", clock).advance_(clock, adam),
    on=("CPU", "CUDA", "Meta"),
)
