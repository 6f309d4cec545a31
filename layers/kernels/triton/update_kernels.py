"""One update of rows that a program holds: the rules and the rounding of ``layers.kernels.row_update``.

Letters: R rows of a program, C columns of its tile, D columns of the table.
"""
# pyright: reportReturnType=false
# (Triton compiles the kernels itself; their annotations are not meant for a type checker.)

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.row_update import RowState, RowStep
from membench.layers.kernels.step_clock import SMALLEST
from membench.layers.kernels.triton import step_clock
from membench.layers.kernels.triton.blocks import gathered, scatter


class StepNumbers(NamedTuple):
    """A rule's numbers and tensors as kernels take them; each is fp32, worked out in the host's fp64.

    Attributes:
        sums, first, second, stamps: those of ``RowState``.
        clock: that of ``RowStep``; where it is one, it has rate, decay, log_decay and correction2 in place of these.
        rate: lr, of the Adams over 1 - beta1^t.
        eps: as it is.
        decay: 1 - lr·wd.
        beta1, beta2, rest1, rest2: beta and 1 - beta.
        correction2: 1 / (1 - beta2^t).
        log_decay, log_beta1, log_beta2: to base 2.
    """

    sums: Tensor | None
    first: Tensor | None
    second: Tensor | None
    stamps: Tensor | None
    clock: Tensor | None
    rate: float
    eps: float
    decay: float
    beta1: float
    beta2: float
    rest1: float
    rest2: float
    correction2: float
    log_decay: float
    log_beta1: float
    log_beta2: float

    @classmethod
    def of(cls, state: RowState, step: RowStep) -> "StepNumbers":
        """Values that depend only on the step's number are computed here once, and not for each row."""
        adam = step.optimizer in ("row_adam", "lazy_adam")
        decay = 1 - step.learning_rate * step.weight_decay
        return cls(
            state.sums,
            state.first,
            state.second,
            state.stamps,
            step.clock,
            rate=step.learning_rate / (1 - step.beta1**step.number) if adam else step.learning_rate,
            eps=step.eps,
            decay=decay,
            beta1=step.beta1,
            beta2=step.beta2,
            rest1=1 - step.beta1,
            rest2=1 - step.beta2,
            correction2=1 / (1 - step.beta2**step.number),
            log_decay=math.log2(max(decay, SMALLEST)),
            log_beta1=math.log2(max(step.beta1, SMALLEST)),
            log_beta2=math.log2(max(step.beta2, SMALLEST)),
        )


@triton.jit(do_not_specialize=["number", "seed", "count"])
def update_rows(
    table: tl.tensor,
    rows: tl.tensor,
    gradient: tl.tensor,
    step: tl.tuple,
    count: tl.tensor,
    number: tl.tensor,
    seed: tl.tensor,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A program updates R of so many rows by their gradient."""
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, TILE)
    here = at < count
    row = tl.load(rows + at, mask=here, other=0).to(tl.int64)
    values = gathered(table, row, here, column, COLUMNS, PITCH)
    change = gathered(gradient, at, here, column, COLUMNS, COLUMNS)
    state = state_of(row, here, column, step, COLUMNS, OPTIMIZER)
    numbers = numbers_of(step, number, seed)
    update(table, values, state, change, row, here, column, step, numbers, COLUMNS, PITCH, OPTIMIZER, STOCHASTIC)


@triton.jit
def numbers_of(step: tl.tuple, number: tl.tensor, seed: tl.tensor) -> tl.tuple:
    """Number and seed of an update, then rate, decay, its logarithm and the second correction: the host's or a clock's.

    Asked for as late as they are needed: a clock stays in a multiprocessor's own cache, and registers are few before.
    """
    if step.clock is None:
        numbers = (number, seed.to(tl.uint32), step.rate, step.decay, step.log_decay, step.correction2)
    else:
        numbers = step_clock.numbers_of(step.clock)
    return numbers


@triton.jit
def state_of(
    row: tl.tensor,
    here: tl.tensor,
    column: tl.tensor,
    step: tl.tuple,
    COLUMNS: tl.constexpr,
    OPTIMIZER: tl.constexpr,
) -> tl.tuple:
    """What an update of rows (R,) needs besides them: a number of each (R,), and two moments (R, C).

    Asked for before the gradient is known, so that nothing waits for it afterwards. 0 is what a rule does not have.
    """
    of_row, first, second = 0, 0, 0
    if OPTIMIZER == "row_adagrad":
        of_row = tl.load(step.sums + row, mask=here, other=0.0)
    elif OPTIMIZER == "row_adam":
        of_row = tl.load(step.second + row, mask=here, other=0.0)
        first = gathered(step.first, row, here, column, COLUMNS, COLUMNS)
    elif OPTIMIZER == "lazy_adam":
        of_row = tl.load(step.stamps + row, mask=here, other=0)
        first = gathered(step.first, row, here, column, COLUMNS, COLUMNS)
        second = gathered(step.second, row, here, column, COLUMNS, COLUMNS)
    return of_row, first, second


@triton.jit
def update(
    table: tl.tensor,
    values: tl.tensor,
    state: tl.tuple,
    gradient: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    column: tl.tensor,
    step: tl.tuple,
    numbers: tl.tuple,
    COLUMNS: tl.constexpr,
    PITCH: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    STOCHASTIC: tl.constexpr,
) -> None:
    """Writes rows (R,) int64, of ``values`` and ``state_of``, changed by their ``gradient`` (R, C), zero past the end.

    The block holds whole rows, because some values exist once per row: means over it, sums, stamps. The barriers make
    sure that every thread has read these before one of them writes.
    """
    of_row, first, second = state
    number, seed, rate, decay, log_decay, correction2 = numbers
    if OPTIMIZER == "sgd":
        values = decay * values - rate * gradient
    elif OPTIMIZER == "row_adagrad":
        total = of_row + tl.sum(gradient * gradient, 1) / COLUMNS
        tl.debug_barrier()
        tl.store(step.sums + row, total, mask=here)
        values = decay * values - (rate / (tl.sqrt(total) + step.eps))[:, None] * gradient
    elif OPTIMIZER == "row_adam":
        second = step.beta2 * of_row
        second += step.rest2 * (tl.sum(gradient * gradient, 1) / COLUMNS)
        tl.debug_barrier()
        tl.store(step.second + row, second, mask=here)
        first = step.beta1 * first + step.rest1 * gradient
        scatter(step.first, first, row, here, column, COLUMNS, COLUMNS)
        scale = rate / (tl.sqrt(second * correction2) + step.eps)
        values = decay * values - scale[:, None] * first
    else:
        tl.static_assert(OPTIMIZER == "lazy_adam")
        # so many steps' decay, of which all but one had no gradient for the row
        gap = (number - of_row).to(tl.float32)[:, None]
        tl.debug_barrier()
        tl.store(step.stamps + row, number, mask=here)
        first = _power(step.beta1, step.log_beta1, gap) * first
        first += step.rest1 * gradient
        second = _power(step.beta2, step.log_beta2, gap) * second
        second += step.rest2 * (gradient * gradient)
        scatter(step.first, first, row, here, column, COLUMNS, COLUMNS)
        scatter(step.second, second, row, here, column, COLUMNS, COLUMNS)
        change = rate * first / (tl.sqrt(second * correction2) + step.eps)
        values = _power(decay, log_decay, gap) * values - change
    if STOCHASTIC:
        values = _rounded_at_random(values, row * COLUMNS, column, seed)
    scatter(table, values, row, here, column, COLUMNS, PITCH)


@triton.jit
def _power(factor: tl.tensor, log_factor: tl.tensor, gap: tl.tensor) -> tl.tensor:
    """factor^gap. A GPU's exp2 has an error of about 1e-7, as large as a small decay: not used for a gap of 1."""
    return tl.where(gap == 1, factor, tl.exp2(gap * log_factor))


@triton.jit
def _rounded_at_random(values: tl.tensor, start: tl.tensor, column: tl.tensor, seed: tl.tensor) -> tl.tensor:
    """fp32 ``values`` (R, C) that a bf16 holds: random bits added below its last, the rest cut off.

    The bits are those of ``layers.kernels.row_update.random_bits``, whose element number is start + column.
    Its upper half is the same in a whole row, or in the part before and the part after a carry, so it is
    mixed once for each and not once an element.
    """
    low = start.to(tl.uint32)[:, None]
    high = (start >> 32).to(tl.uint32) + seed
    index = low + column.to(tl.uint32)[None, :]
    mixed = tl.where(index < low, _fmix32(high + 1)[:, None], _fmix32(high)[:, None])
    bits = values.to(tl.uint32, bitcast=True)
    rounded = (bits + (_fmix32(index ^ mixed) & 0xFFFF)) & 0xFFFF0000
    finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(finite, rounded, bits).to(tl.float32, bitcast=True)


@triton.jit
def _fmix32(h: tl.tensor) -> tl.tensor:
    """MurmurHash3's finalizer of uint32."""
    h = h ^ (h >> 16)
    h = h * 0x85EBCA6B
    h = h ^ (h >> 13)
    h = h * 0xC2B2AE35
    return h ^ (h >> 16)
