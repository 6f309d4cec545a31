"""The arms of a run at each comparable point as documents and benchmarks read them: with their records and floors."""

from dataclasses import dataclass
from datetime import datetime

from membench.json_values import number
from membench.results.answers import answers_of
from membench.results.derived import with_derived
from membench.results.intervals import FEWEST_ROUNDS
from membench.results.places import places
from membench.results.ranking import added_ms
from membench.results.records import Record, ResultFile, Run

MIN_ROUNDS = FEWEST_ROUNDS


@dataclass(frozen=True, slots=True)
class Standing:
    """An arm at a point. Without three rounds the interval and the places are None.

    Attributes:
        step_ms: the median over rounds, with the predicted communication; between ``low_ms`` and ``high_ms``.
        place_low, place_high: the first and the last place that it may have; arms that share one are not told apart.
    """

    arm: str
    record: Record
    step_ms: float
    low_ms: float | None
    high_ms: float | None
    place_low: int | None
    place_high: int | None

    @property
    def communication_ms(self) -> float:
        return added_ms(self.record)

    @property
    def floor_ms(self) -> float | None:
        """The least time that the counted work needs at the measured ceilings; without communication."""
        return number(self.record.metrics, "floor_ms")

    @property
    def over_floor(self) -> float | None:
        return number(self.record.metrics, "over_floor")

    def before(self, other: "Standing") -> bool:
        """Whether a reader is told that it is the faster of the two: they share no place."""
        return self.place_high is not None and other.place_low is not None and self.place_high < other.place_low


@dataclass(frozen=True, slots=True)
class Point:
    """Arms that may be ranked against each other, the fastest first.

    ``failed`` are those without a time; ``no_order`` says why no order is known. ``at_dense_flops`` names who may be
    first among the arms with the dense arm's FLOPs, where there are such besides itself.
    """

    title: str
    standings: list[Standing]
    failed: list[str]
    no_order: str | None
    at_dense_flops: list[str]

    @property
    def leaders(self) -> list[Standing]:
        """Who may be first; nobody where there is no order."""
        return [each for each in self.standings if each.place_low == 1]

    def times(self, one: Standing, other: Standing) -> tuple[float, float] | None:
        """How many times as long as the other the one takes, from and to: by the rounds of both, as places are.

        None where the rounds do not say. The ratio of the medians, which is the figure, is always inside.
        """
        order, figure = places(each.record for each in self.standings), one.step_ms / other.step_ms
        found = order.times(one.record.id, other.record.id)
        return None if found is None else (min(found[0], figure), max(found[1], figure))


def points_of(result: ResultFile) -> list[Point]:
    """Every point of a run at which anything was measured."""
    result = with_derived(result)
    records = {record.id: record for record in result.cases}
    found = []
    for title, answer in answers_of(result).items():
        standings = [
            Standing(
                each.arm,
                records[each.id],
                each.step_ms,
                each.step_ms_low,
                each.step_ms_high,
                each.place_low,
                each.place_high,
            )
            for each in answer.standings
        ]
        if standings:
            found.append(Point(title, standings, answer.failed, answer.no_order, answer.at_dense_flops))
    return found


def seconds_of(run: Run) -> float | None:
    """From a run's begin to its end; None where they are no times in this order, or it was interrupted meanwhile."""
    if run.finished is None or run.resumed is not None:
        return None
    try:
        seconds = (datetime.fromisoformat(run.finished) - datetime.fromisoformat(run.started)).total_seconds()
    except (ValueError, TypeError):  # the latter where only one of them names its time zone
        return None
    return seconds if seconds > 0 else None
