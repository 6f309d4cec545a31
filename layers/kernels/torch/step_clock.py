"""A clock moved on by Python's arithmetic, for which the host waits. Meaning: ``layers.kernels.step_clock``."""

import math

import torch
from torch import Tensor

from membench.layers.kernels.step_clock import SMALLEST, Field, rounding_seed


def advance_(clock: Tensor, adam: bool) -> None:
    """As ``layers.kernels.step_clock.advance_``."""
    clock.copy_(torch.tensor(_next(clock.tolist(), adam), dtype=torch.float64))


def _next(clock: list[float], adam: bool) -> list[float]:
    number = int(clock[Field.NUMBER]) + 1
    rate, beta1, beta2 = clock[Field.LEARNING_RATE], clock[Field.BETA1], clock[Field.BETA2]
    decay = 1 - rate * clock[Field.WEIGHT_DECAY]
    follows = {
        Field.NUMBER: number,
        Field.ROUNDING_SEED: rounding_seed(int(clock[Field.TABLE_SEED]), number),
        Field.RATE: rate / (1 - beta1**number) if adam else rate,
        Field.DECAY: decay,
        Field.LOG_DECAY: math.log2(max(decay, SMALLEST)),
        Field.CORRECTION2: 1 / (1 - beta2**number),
    }
    return [follows.get(field, clock[field]) for field in Field]
