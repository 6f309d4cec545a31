"""Cases measured with more real work in every timed call, by a share that a variable says."""

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import torch

from benchmarks.slowed_worker import SHARE
from membench.case import Case
from membench.measuring.checked_answer import CheckedAnswer
from membench.measuring.measurement import CaseMeasurement, Prepared
from membench.measuring.paced import take_turn
from membench.measuring.time import StepCall, warm_up

_SIDE = 64
_UNITS, _TURNS = 50, 12
_WARMUP_SECONDS = 0.1


def unit() -> Callable[[], object]:
    """A small product: some microseconds of one core."""
    a, out = torch.rand(_SIDE, _SIDE), torch.empty(_SIDE, _SIDE)
    return lambda: torch.mm(a, a, out=out)


def units_for(share: float, call_s: list[float], unit_s: list[float]) -> int:
    """How many units are so much of a call; both were timed in turn, so a disturbance hits neighbours alike."""
    return round(share * statistics.median(call / one for call, one in zip(call_s, unit_s, strict=True)))


class Slowed(CaseMeasurement):
    """Measures steps with units of work added, sized in this process from the step without them."""

    def prepare(self, case: Case, implementations: list[str], known: CheckedAnswer | None = None) -> Prepared:
        prepared, work = super().prepare(case, implementations, known), unit()
        step, inputs = prepared.step, count()
        warm_up(self.clock, step, _WARMUP_SECONDS)
        call_s, unit_s = [], []
        for _ in range(_TURNS):
            call_s.append(take_turn(self.clock, step, inputs, 1).own_s)
            unit_s.append(take_turn(self.clock, lambda _: work(), inputs, _UNITS).own_s)
        added = units_for(float(os.environ[SHARE]), call_s, unit_s)
        return replace(prepared, step=slowed(step, work, added))


def slowed(step: StepCall, work: Callable[[], object], units: int) -> StepCall:
    """The step with so many units behind it."""

    def call(i: int) -> None:
        step(i)
        for _ in range(units):
            work()

    return call
