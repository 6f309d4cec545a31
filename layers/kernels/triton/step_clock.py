"""A clock moved on by one program, so that a replayed CUDA graph counts on. Meaning: ``layers.kernels.step_clock``."""
# pyright: reportReturnType=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.step_clock import SMALLEST, Field
from membench.layers.kernels.triton.launch import launch

_NUMBER = tl.constexpr(int(Field.NUMBER))
_LEARNING_RATE = tl.constexpr(int(Field.LEARNING_RATE))
_WEIGHT_DECAY = tl.constexpr(int(Field.WEIGHT_DECAY))
_BETA1 = tl.constexpr(int(Field.BETA1))
_BETA2 = tl.constexpr(int(Field.BETA2))
_TABLE_SEED = tl.constexpr(int(Field.TABLE_SEED))
_ROUNDING_SEED = tl.constexpr(int(Field.ROUNDING_SEED))
_RATE = tl.constexpr(int(Field.RATE))
_DECAY = tl.constexpr(int(Field.DECAY))
_LOG_DECAY = tl.constexpr(int(Field.LOG_DECAY))
_CORRECTION2 = tl.constexpr(int(Field.CORRECTION2))
_SMALLEST = tl.constexpr(SMALLEST)


def advance_(clock: Tensor, adam: bool) -> None:
    """As ``layers.kernels.step_clock.advance_``."""
    launch(clock, advance, (1,), clock, ADAM=adam, num_warps=1)


@triton.jit
def advance(clock: tl.tensor, ADAM: tl.constexpr) -> None:
    """One program moves a clock (11,) on to the next update."""
    number = tl.load(clock + _NUMBER) + 1
    learning_rate = tl.load(clock + _LEARNING_RATE)
    decay = 1 - learning_rate * tl.load(clock + _WEIGHT_DECAY)
    rate = learning_rate
    if ADAM:
        rate = learning_rate / (1 - _power(tl.load(clock + _BETA1), number.to(tl.int32)))
    bits = (tl.load(clock + _TABLE_SEED).to(tl.int64) + number.to(tl.int64)) * 0x9E3779B1 & 0xFFFFFFFF
    tl.store(clock + _NUMBER, number)
    tl.store(clock + _ROUNDING_SEED, bits.to(tl.float64))
    tl.store(clock + _RATE, rate)
    tl.store(clock + _DECAY, decay)
    tl.store(clock + _LOG_DECAY, tl.log2(tl.maximum(decay, _SMALLEST)))
    tl.store(clock + _CORRECTION2, 1 / (1 - _power(tl.load(clock + _BETA2), number.to(tl.int32))))


@triton.jit
def _power(factor: tl.tensor, exponent: tl.tensor) -> tl.tensor:
    """factor^exponent by squaring: exact for the first update, whose 1 - beta magnifies every rounding."""
    power = tl.zeros_like(factor) + 1
    while exponent > 0:
        power = tl.where(exponent % 2 == 1, power * factor, power)
        factor = factor * factor
        exponent = exponent // 2
    return power


@triton.jit
def numbers_of(clock: tl.tensor) -> tl.tuple:
    """Number and seed, int32 and uint32, then rate, decay, its logarithm and the second correction, fp32."""
    number = tl.load(clock + _NUMBER).to(tl.int32)
    seed = tl.load(clock + _ROUNDING_SEED).to(tl.int64).to(tl.uint32)
    rate = tl.load(clock + _RATE).to(tl.float32)
    decay = tl.load(clock + _DECAY).to(tl.float32)
    log_decay = tl.load(clock + _LOG_DECAY).to(tl.float32)
    correction2 = tl.load(clock + _CORRECTION2).to(tl.float32)
    return number, seed, rate, decay, log_decay, correction2
