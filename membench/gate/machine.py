"""Whether the machine itself was slower: ceilings and clocks that every run measures beside its layers."""

import math
from collections.abc import Callable

from membench.gate.statistics import unpaired
from membench.json_values import positive
from membench.results.records import Record, Round

_CEILINGS = ("matmul_flops_per_s", "copy_bytes_per_s", "read_bytes_per_s", "random_row_bytes_per_s")
_CLOCKS = ("core_mhz", "sm_mhz", "memory_mhz")


def machine_slowdown(base: Record, head: Record) -> float:
    """ln of how much slower the machine was in the head's rounds, by its worst ceiling or clock; 0 where none was.

    A case that is slower by no more than this may be slowed by the machine alone, so it is no
    regression (in the words of a GPU: it does not hold in clock cycles).
    """
    speeds = [*(_ceiling(name) for name in _CEILINGS), *(_clock(name) for name in _CLOCKS)]
    slowdowns = [0.0]
    for speed in speeds:
        before, now = _known(base, speed), _known(head, speed)
        if before and now:
            slowdowns.append(-unpaired(before, now).effect)
    return max(slowdowns)


def _known(record: Record, speed: Callable[[Round], float | None]) -> list[float]:
    return [v for r in record.rounds if r.status == "ok" and (v := speed(r))]


def _ceiling(name: str) -> Callable[[Round], float | None]:
    return lambda r: positive(r.ceilings, name)


def _clock(name: str) -> Callable[[Round], float | None]:
    def mean(round_: Round) -> float | None:
        known = [v for reading in round_.clocks if (v := positive(reading, name))]
        return math.exp(sum(map(math.log, known)) / len(known)) if known else None

    return mean
