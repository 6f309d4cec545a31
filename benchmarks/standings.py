"""The arms of a run at each comparable point, the fastest first, with intervals and the places that they may have.

The one place where benchmarks and documents learn what a run holds: ``points_of``.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from membench.json_values import number, positive
from membench.results.ceilings import Ceilings
from membench.results.ranking import arm_name, comparable_groups, ranked, step_ms
from membench.results.records import Record, ResultFile, Round

MIN_ROUNDS = 3  # with fewer there is no interval, and no order


@dataclass(frozen=True, slots=True)
class Standing:
    """An arm at a point. Without three rounds the interval and the places are None.

    Attributes:
        step_ms: the median over rounds, with the predicted communication; between ``low_ms`` and ``high_ms``.
        place_low, place_high: the first and the last place that it may have; arms that share one are not told apart.
        floor_ms: the least time that the counted work needs at the measured ceilings; without communication.
        over_floor: the measured time without communication, over the floor.
    """

    arm: str
    record: Record
    step_ms: float
    low_ms: float | None
    high_ms: float | None
    place_low: int | None
    place_high: int | None
    floor_ms: float | None
    over_floor: float | None

    @property
    def communication_ms(self) -> float:
        return positive(self.record.metrics, "communication_ms_predicted") or 0.0

    def before(self, other: "Standing") -> bool:
        """Whether it is told apart from the other, and the faster of the two."""
        return self.place_high is not None and other.place_low is not None and self.place_high < other.place_low


@dataclass(frozen=True, slots=True)
class Point:
    """Arms that may be ranked against each other, the fastest first; ``failed`` are those without a time."""

    title: str
    standings: list[Standing]
    failed: list[str]

    @property
    def leaders(self) -> list[Standing]:
        """Who may be first; nobody where there is no order."""
        return [each for each in self.standings if each.place_low == 1]


def points_of(result: ResultFile) -> list[Point]:
    """Every point of a run at which anything was measured."""
    found = []
    for title, records in comparable_groups(result.cases).items():
        order = ranked(records)
        if order:
            failed = [arm_name(record) for record in records if step_ms(record) is None]
            found.append(Point(title, _standings(order), failed))
    return found


def done_rounds(record: Record) -> list[Round]:
    """The rounds that went well."""
    return [each for each in record.rounds if each.status == "ok" and each.samples_s]


def _standings(order: Iterable[Record]) -> list[Standing]:
    timed = [(record, step_ms(record) or 0.0, *_interval(record)) for record in order]
    found = []
    for record, step, low, high in timed:
        places: tuple[int | None, int | None] = (None, None)
        if low is not None and high is not None and all(each[2] is not None for each in timed):
            before = sum(1 for *_, other in timed if other is not None and other < low)
            after = sum(1 for *_, other, _ in timed if other is not None and other > high)
            places = before + 1, len(timed) - after
        floor_ms = number(record.metrics, "floor_ms") or _floor_ms(record)
        latency_ms = positive(record.metrics, "latency_ms_p50")
        over = latency_ms / floor_ms if latency_ms and floor_ms else None
        found.append(Standing(arm_name(record), record, step, low, high, *places, floor_ms, over))
    return found


def _interval(record: Record) -> tuple[float | None, float | None]:
    """Where the step's time lies: as the record says, else the range of at least three rounds' medians."""
    low, high = positive(record.metrics, "step_ms_low"), positive(record.metrics, "step_ms_high")
    if low and high:
        return low, high
    medians = [1e3 * statistics.median(each.samples_s) for each in done_rounds(record)]
    if len(medians) < MIN_ROUNDS:
        return None, None
    communication = positive(record.metrics, "communication_ms_predicted") or 0.0
    return min(medians) + communication, max(medians) + communication


def _floor_ms(record: Record) -> float | None:
    floors = []
    for each in done_rounds(record):
        needs = (number(each.cost, name) for name in ("flops", "bytes_dram_expected", "row_bytes_dram_expected"))
        floor_s, _ = Ceilings.of(each.ceilings).floor(*(need or 0.0 for need in needs))
        if floor_s:
            floors.append(1e3 * floor_s)
    return statistics.median(floors) if floors else None
