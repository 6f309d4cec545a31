"""What a trained case has learnt, two files held against each other by their seeds.

Seeds that both were trained on are paired: they saw the same data in the same order. Others are two samples of seeds,
held against each other by Welch's interval. An interval is of 99 % over all cases of a file together.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from membench.gate.metrics import LEARNT, LearntMetric
from membench.gate.statistics import CONFIDENCE
from membench.gate.thresholds import Thresholds, limits
from membench.gate.verdicts import MetricVerdict, Verdict
from membench.results.intervals import FEWEST_ROUNDS
from membench.results.learnt import data_of, interval, of_seeds
from membench.results.quantiles import student_t
from membench.results.records import Record, ResultFile
from membench.words import how_many

Sides = tuple[Record | None, Record | None]


def sides_of(base: ResultFile, head: ResultFile) -> dict[str, Sides]:
    """The cases of two files by id, each with what both have of it.

    A trained case without its like is held against the one of the same arm, task and budget, trained otherwise, where
    there is just one on both sides.
    """
    before, now = ({record.id: record for record in each.cases} for each in (base, head))
    found: dict[str, Sides] = {id_: (before.get(id_), now.get(id_)) for id_ in {**before, **now}}
    alone = [
        {_lesson(r): r for r in of if _is_alone(r, other)} for of, other in ((base.cases, now), (head.cases, before))
    ]
    for lesson in alone[0].keys() & alone[1].keys():
        old, new = alone[0][lesson], alone[1][lesson]
        del found[old.id]
        found[new.id] = old, new
    return found


def _is_alone(record: Record, other: Mapping[str, Record]) -> bool:
    return record.case.training is not None and record.id not in other


def _lesson(record: Record) -> str:
    """What is learnt by which model within which budget; not how."""
    case = record.case
    assert case.training is not None
    return case.model_dump_json(include={"arm", "layer", "task", "tokens"}) + case.training.stop.model_dump_json()


def learnt_verdicts(base: Record, head: Record, thresholds: Thresholds, cases: int) -> list[MetricVerdict]:
    """Every metric of what was learnt that both sides have, and seeds that went well before and now do not.

    Args:
        cases: that the two files have in common: as many intervals hold together.
    """
    if other := _other_data(base, head):
        return [MetricVerdict(LEARNT[0].name, Verdict.INCOMPARABLE, other)]
    otherwise = _trained_otherwise(base, head)
    found = _lost_seeds(base, head)
    for metric in LEARNT:
        before, now = of_seeds(base.rounds, metric.name), of_seeds(head.rounds, metric.name)
        if before and now:
            floor = limits(thresholds, head.case, metric).floor
            found.append(_judged(metric, before, now, floor, 1 - (1 - CONFIDENCE) / max(1, cases), otherwise))
    if not found:
        found.append(MetricVerdict(LEARNT[0].name, Verdict.INCOMPARABLE, "no seed has an answer on both sides"))
    return found


def _other_data(base: Record, head: Record) -> str:
    """Why their data are not the same, of a task that is: files were, or Python's own text was, of other content."""
    before, now = data_of(base)[:1], data_of(head)[:1]
    if not before or not now or before == now:
        return ""
    names = [name for name in {**before[0], **now[0]} if before[0].get(name) != now[0].get(name)]
    return f"trained on other data: {', '.join(names)} differ{'s' if len(names) == 1 else ''}"


def _lost_seeds(base: Record, head: Record) -> list[MetricVerdict]:
    well = {r.number for r in base.rounds if r.status == "ok"}
    lost = [r for r in head.rounds if r.number in well and r.status != "ok"]
    if not lost:
        return []
    told = "; ".join(f"seed {r.number} was ok, now {r.status}: {r.reason or 'no reason given'}" for r in lost)
    return [MetricVerdict("status", Verdict.FAILED, told)]


def _trained_otherwise(base: Record, head: Record) -> str:
    before, now = base.case.training, head.case.training
    assert before is not None
    assert now is not None
    names = [name for name in type(now).model_fields if getattr(before, name) != getattr(now, name) and name != "seeds"]
    return f"trained otherwise: {', '.join(names)}" if names else ""


def _judged(
    metric: LearntMetric,
    before: Mapping[int, float],
    now: Mapping[int, float],
    floor: float,
    confidence: float,
    otherwise: str,
) -> MetricVerdict:
    shared = sorted(before.keys() & now.keys())
    paired = len(shared) >= min(FEWEST_ROUNDS, len(before), len(now))
    sides = ([before[n] for n in shared], [now[n] for n in shared]) if paired else ([*before.values()], [*now.values()])
    means = statistics.fmean(sides[0]), statistics.fmean(sides[1])
    seeds = how_many(len(shared), "paired seed") if paired else f"seeds {len(sides[0])} against {len(sides[1])}"

    def verdict(found: Verdict, said: str) -> MetricVerdict:
        return MetricVerdict(metric.name, found, "; ".join(filter(None, [seeds, said, otherwise])), *means)

    if paired and sides[0] == sides[1]:
        return verdict(Verdict.SAME, "equal to the last digit")
    if min(map(len, sides)) < FEWEST_ROUNDS:
        return verdict(Verdict.INCONCLUSIVE, f"{FEWEST_ROUNDS} are needed")
    sign = 1.0 if metric.better == "lower" else -1.0
    by, (low, high) = sign * (means[1] - means[0]), _interval(*sides, paired=paired, confidence=confidence)
    ends = sorted((sign * low, sign * high))
    said = f"{means[1] - means[0]:+.3g}, {100 * confidence:.4g} % from {low:+.3g} to {high:+.3g}"
    if ends[0] > 0 and by > floor:
        return verdict(Verdict.WORSE, said)
    if ends[1] < 0 and -by > floor:
        return verdict(Verdict.BETTER, said)
    if -floor <= ends[0] and ends[1] <= floor:
        return verdict(Verdict.SAME, said)
    return verdict(Verdict.INCONCLUSIVE, f"{said}: more seeds would tell")


def _interval(base: Sequence[float], head: Sequence[float], *, paired: bool, confidence: float) -> tuple[float, float]:
    """Of the difference of the means, head less base: Student's where seeds are paired, else Welch's."""
    by = statistics.fmean(head) - statistics.fmean(base)
    if paired:
        return interval([now - before for before, now in zip(base, head, strict=True)], confidence) or (by, by)
    errors = [statistics.variance(side) / len(side) for side in (base, head)]
    if not any(errors):
        return by, by
    degrees = sum(errors) ** 2 / sum(e**2 / (len(side) - 1) for e, side in zip(errors, (base, head), strict=True))
    half = student_t(degrees, confidence) * math.sqrt(sum(errors))
    return by - half, by + half


def trained_in_both(sides: Iterable[Sides]) -> int:
    """How many trained cases both files have."""
    return sum(base is not None and head is not None and head.case.training is not None for base, head in sides)
