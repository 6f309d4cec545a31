"""Which arms of a group are surely faster than which, and the places that this leaves to each.

A round measures every arm once, and what the machine does to a round it does to all of its arms. So differences are
taken within rounds: the logarithm of a step is an arm's share, plus a round's, plus noise. Tukey and Kramer's test
holds for all pairs of a group together at 95 %; arms that it does not tell apart share places.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from membench.results.intervals import FEWEST_ROUNDS, medians_s
from membench.results.quantiles import studentized_range
from membench.results.ranking import added_ms, ranked
from membench.results.records import Record
from membench.words import how_many


class Places(NamedTuple):
    """The order of some arms as far as it is known.

    ``logs`` holds of each (id, id), both ways round, the interval of the first one's step over the second one's, as
    logarithms; all intervals hold together at 95 %. ``no_order`` says why nothing is known; None where the arms were
    compared. ``ids`` are the measured arms, by the medians of their steps.
    """

    ids: list[str]
    logs: dict[tuple[str, str], tuple[float, float]]
    no_order: str | None

    @property
    def faster(self) -> frozenset[tuple[str, str]]:
        """(id, id) of each pair of which the first surely takes less time."""
        return frozenset(pair for pair, (_, high) in self.logs.items() if high < 0)

    def times(self, one: str, other: str) -> tuple[float, float] | None:
        """How many times as long as the other arm the one takes, from and to; None where nothing is known of them."""
        found = self.logs.get((one, other))
        return None if found is None else (math.exp(found[0]), math.exp(found[1]))

    def of(self, id_: str) -> tuple[int, int] | None:
        """The first and the last place that an arm may have among those that were measured."""
        if self.no_order is not None:
            return None
        faster = self.faster
        ahead = sum((other, id_) in faster for other in self.ids)
        behind = sum((id_, other) in faster for other in self.ids)
        return 1 + ahead, len(self.ids) - behind

    def first(self, among: Iterable[str]) -> list[str]:
        """Those than which no other of ``among`` is surely faster; none where there is no order."""
        among = list(among)
        if self.no_order is not None:
            return []
        faster = self.faster
        return [id_ for id_ in among if not any((other, id_) in faster for other in among)]


def places(records: Iterable[Record]) -> Places:
    """The order of records that may be ranked against each other, by the rounds that all of them have."""
    arms = ranked(records)
    steps = [_log_steps(record) for record in arms]
    common = sorted(set.intersection(*(set(each) for each in steps))) if steps else []
    ids = [record.id for record in arms]
    if len(arms) < 2:
        return Places(ids, {}, "one arm" if arms else "nothing was measured")
    if len(common) < FEWEST_ROUNDS:
        together = " in common" if any(len(each) > len(common) for each in steps) else ""
        return Places(ids, {}, f"{_rounds(len(common))}{together}")
    return Places(ids, _differences(ids, [[each[number] for number in common] for each in steps]), None)


def _rounds(count: int) -> str:
    return {0: "no round", 1: "one round", 2: "two rounds"}.get(count, how_many(count, "round"))


def _log_steps(record: Record) -> dict[int, float]:
    """The logarithm of each round's step in milliseconds, predicted communication included where it is known."""
    added = added_ms(record)
    return {number: math.log(1e3 * s + added) for number, s in medians_s(record.rounds).items()}


def _differences(ids: Sequence[str], steps: Sequence[Sequence[float]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Of each pair, both ways round, the interval of the first one's step less the second one's.

    Args:
        ids: of N arms.
        steps: [N, R] logarithms of the arms' steps in the same R rounds.
    """
    arms, rounds = len(steps), len(steps[0])
    # Always within rounds, also where the difference of independent means would be tighter: the test whose interval
    # happens to be the narrower one is right less often than it says. All that pairing costs is R - 1 degrees of NR.
    shares = [statistics.fmean(step[r] for step in steps) for r in range(rounds)]
    residual_squares = sum(statistics.pvariance([a - b for a, b in zip(step, shares, strict=True)]) for step in steps)
    degrees = (arms - 1) * (rounds - 1)
    pooled = rounds * residual_squares / degrees
    range_ = studentized_range(arms, degrees)
    found = {}
    for (one, a), (other, b) in combinations(zip(ids, steps, strict=True), 2):
        differences = [x - y for x, y in zip(a, b, strict=True)]
        noise = max(pooled, statistics.variance(differences) / 2)  # a noisy arm is not judged by its quiet neighbours
        difference, half_width = statistics.fmean(differences), range_ * math.sqrt(noise / rounds)
        found[one, other] = difference - half_width, difference + half_width
        found[other, one] = -difference - half_width, -difference + half_width
    return found
