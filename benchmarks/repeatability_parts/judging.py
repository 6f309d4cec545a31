"""What several runs of one scenario say of each other. Pure arithmetic on result files.

Nothing changed between the runs, so the true difference of two runs is nothing, and the true order of two arms is one.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

from benchmarks.standings import Standing, points_of, seconds_of
from membench.results.disturbance import disturbed, disturbed_rounds
from membench.results.quantiles import CONFIDENCE
from membench.results.records import ResultFile


@dataclass(frozen=True, slots=True)
class Told:
    """A case in one run, at one point of it: its place among the arms, and whether it is flagged as disturbed."""

    point: str
    standing: Standing

    @property
    def disturbed(self) -> bool:
        return disturbed_rounds(self.standing.record) is not None


def judge_runs(runs: Sequence[ResultFile]) -> dict[str, Any]:
    """Spread, differences, order and disturbance of runs that ``check_alike`` lets pass."""
    told = [_told(run) for run in runs]
    return {
        "coverage": CONFIDENCE,
        "minutes": [_minutes(run) for run in runs],
        "spread": spread(told),
        "differences": differences(told),
        "order": order(told),
        "disturbance": disturbance(runs),
    }


def spread(told: Sequence[dict[tuple[str, str], Told]]) -> dict[str, Any]:
    """By case its steps in all runs and the largest over the smallest; of undisturbed ones once more."""
    cases = []
    for key in _shared(told):
        each = [run[key] for run in told]
        kept = [one.standing.step_ms for one in each if not one.disturbed]
        cases.append(
            {
                "case": f"{key[1]}, {key[0]}",
                "step_ms": [one.standing.step_ms for one in each],
                "disturbed": [one.disturbed for one in each],
                "ratio": _ratio([one.standing.step_ms for one in each]),
                "ratio_undisturbed": _ratio(kept) if len(kept) > 1 else None,
            }
        )
    return {
        "cases": cases,
        **_middle_and_worst("", [case["ratio"] for case in cases]),
        **_middle_and_worst("_undisturbed", [case["ratio_undisturbed"] for case in cases]),
    }


def differences(told: Sequence[dict[tuple[str, str], Told]]) -> dict[str, Any]:
    """How often the difference of two runs lies inside its stated interval: whether that interval holds nothing.

    Pairs of which a side is flagged as disturbed are counted by themselves.
    """
    counts: dict[bool, list[bool]] = {True: [], False: []}
    unstated = 0
    for key in _shared(told):
        for one, other in combinations((run[key] for run in told), 2):
            interval = difference_ms(one.standing, other.standing)
            if interval is None:
                unstated += 1
            else:
                counts[one.disturbed or other.disturbed].append(interval[0] <= 0 <= interval[1])
    every = counts[False] + counts[True]
    return {
        "pairs": len(every),
        "inside": sum(every),
        "share": sum(every) / len(every) if every else None,
        "undisturbed_pairs": len(counts[False]),
        "undisturbed_inside": sum(counts[False]),
        "undisturbed_share": sum(counts[False]) / len(counts[False]) if counts[False] else None,
        "without_interval": unstated,
    }


def difference_ms(one: Standing, other: Standing) -> tuple[float, float] | None:
    """The interval of ``other - one`` from the intervals of both; None where a side has none.

    Each end adds the distances of the two estimates to their own ends as independent errors: the method of variance
    estimates recovery (G. Y. Zou, A. Donner, Statistics in Medicine 27, 2008).
    """
    if one.low_ms is None or one.high_ms is None or other.low_ms is None or other.high_ms is None:
        return None
    difference = other.step_ms - one.step_ms
    below = math.hypot(other.step_ms - other.low_ms, one.high_ms - one.step_ms)
    above = math.hypot(other.high_ms - other.step_ms, one.step_ms - one.low_ms)
    return difference - below, difference + above


def order(told: Sequence[dict[tuple[str, str], Told]]) -> dict[str, Any]:
    """How often two arms that one run tells apart stand the other way round in another.

    ``reversed``: by their medians; ``reversed_and_told_apart``: the other run is as sure of the opposite. Where one
    of the four cases is flagged as disturbed, the reversal is excused, and counted as that.
    """
    told_apart, excused, faults = 0, 0, []
    sure = 0
    for here, there in permutations(range(len(told)), 2):
        for faster, slower in _told_apart(told[here]):
            if faster not in told[there] or slower not in told[there]:
                continue
            told_apart += 1
            first, second = told[there][faster], told[there][slower]
            if first.standing.step_ms <= second.standing.step_ms:
                continue
            if any(each.disturbed for each in (first, second, told[here][faster], told[here][slower])):
                excused += 1
                continue
            sure += second.standing.before(first.standing)
            faults.append({"point": faster[0], "faster": faster[1], "slower": slower[1], "runs": [here, there]})
    return {
        "told_apart": told_apart,
        "reversed": len(faults),
        "reversed_and_told_apart": sure,
        "excused": excused,
        "reversals": faults,
    }


def disturbance(runs: Sequence[ResultFile]) -> dict[str, Any]:
    """How many cases, rounds and samples were flagged, of how many."""
    records = [record for run in runs for record in run.cases if record.status == "ok"]
    rounds = [found for record in records for found in record.rounds]
    return {
        "cases": len(records),
        "cases_disturbed": sum(disturbed_rounds(record) is not None for record in records),
        "rounds": len(rounds),
        "rounds_disturbed": sum(disturbed(found) is not None for found in rounds),
        "samples": sum(len(found.samples_s) for found in rounds),
        "samples_taken_again": sum(len(found.disturbed_samples_s) for found in rounds),
    }


def _told(run: ResultFile) -> dict[tuple[str, str], Told]:
    return {(point.title, each.arm): Told(point.title, each) for point in points_of(run) for each in point.standings}


def _shared(told: Sequence[dict[tuple[str, str], Told]]) -> list[tuple[str, str]]:
    """What every run measured."""
    return [key for key in told[0] if all(key in run for run in told)]


def _told_apart(told: dict[tuple[str, str], Told]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    points: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in told:
        points[key[0]].append(key)
    for keys in points.values():
        for one, other in permutations(keys, 2):
            if told[one].standing.before(told[other].standing):
                yield one, other


def _ratio(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _middle_and_worst(name: str, ratios: Sequence[float | None]) -> dict[str, float | None]:
    known = [ratio for ratio in ratios if ratio is not None]
    return {
        f"middle{name}": statistics.median(known) if known else None,
        f"worst{name}": max(known) if known else None,
    }


def _minutes(run: ResultFile) -> float | None:
    seconds = seconds_of(run.run)
    return None if seconds is None else seconds / 60
