"""How many parameters each arm carries at equal latency, read off a scenario that measures arms at several sizes."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from membench.results.ranking import arm_name, counted, step_ms
from membench.results.records import Record
from membench.results.rising import ROUNDING, interpolated, rising


@dataclass(frozen=True, slots=True)
class Carried:
    """Parameters of an arm at a latency: ``params``, or more or fewer than that where all its sizes lie on one side.

    ``bound`` is "over" where its largest size is faster, "under" where its smallest is slower.
    """

    params: float
    bound: Literal["", "over", "under"] = ""

    @classmethod
    def at(cls, latency_ms: float, curve: list[tuple[float, float]]) -> "Carried":
        """Between (params, milliseconds) of a rising curve."""
        (least, least_ms), (most, most_ms) = curve[0], curve[-1]
        if latency_ms < least_ms * (1 - ROUNDING):
            return cls(least, "under")
        if latency_ms > most_ms * (1 + ROUNDING):
            return cls(most, "over")
        return cls(interpolated([(ms, params) for params, ms in curve], latency_ms))


@dataclass(frozen=True, slots=True)
class EqualLatency:
    """The latency of a yardstick of so many ``params``, and what each arm with several sizes carries at it."""

    yardstick: str
    params: float
    latency_ms: float
    carried: dict[str, Carried]


def equal_latency(records: Iterable[Record]) -> list[EqualLatency]:
    """A line for each size of the yardsticks, of records that may be ranked against each other.

    Empty where no arm but those was measured at several sizes.
    """
    sizes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    beside = {}
    for record in records:
        params, latency_ms = counted(record, "params"), step_ms(record)
        if not params or not latency_ms:
            continue
        if record.case.layer.is_yardstick:
            beside[record.id] = (arm_name(record), params, latency_ms)
        else:
            sizes[record.case.arm].append((params, latency_ms))
    curves = {arm: rising(points) for arm, points in sizes.items() if len({params for params, _ in points}) > 1}
    if not curves:
        return []
    return [
        EqualLatency(arm, params, ms, {name: Carried.at(ms, curve) for name, curve in curves.items()})
        for arm, params, ms in sorted(beside.values(), key=lambda each: each[2])
    ]
