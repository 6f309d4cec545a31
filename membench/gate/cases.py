"""Two result files case by case: matched by id, judged metric by metric."""

import math
import statistics
from dataclasses import dataclass

from membench.gate.judge import judge_counted, judge_paired, judge_unpaired
from membench.gate.machine import machine_slowdown
from membench.gate.metrics import COUNTED, TIMED, TimedMetric
from membench.gate.thresholds import Limits, Thresholds, limits
from membench.gate.verdicts import MetricVerdict, Verdict, worst
from membench.groups import arm_name, routing_name, step_name, swept
from membench.records import Record, ResultFile


@dataclass(frozen=True, slots=True)
class CaseComparison:
    """One case of base and head; ``metrics`` is never empty, ``worst`` is what the case is called."""

    id: str
    label: str
    metrics: list[MetricVerdict]

    @property
    def worst(self) -> MetricVerdict:
        return worst(self.metrics)


@dataclass(frozen=True, slots=True)
class Comparability:
    """What may be held against each other in two files.

    ``paired``: their rounds were taken in turn. ``timings`` is None, or why timings may not be compared.
    """

    paired: bool
    timings: str | None = None


def comparability(base: ResultFile, head: ResultFile) -> Comparability:
    """How two files stand to each other."""
    if base.environment.get("fingerprint") != head.environment.get("fingerprint"):
        return Comparability(False, "measured on another device")
    return Comparability(base.run.pair is not None and base.run.pair == head.run.pair)


def compare_cases(base: ResultFile, head: ResultFile, thresholds: Thresholds) -> list[CaseComparison]:
    """Every case of either file, the worst first."""
    how = comparability(base, head)
    before = {record.id: record for record in base.cases}
    now = {record.id: record for record in head.cases}
    found = [_compare(before.get(id_), now.get(id_), how, thresholds) for id_ in {**before, **now}]
    return sorted((each for each in found if each), key=_badness)


def _badness(found: CaseComparison) -> tuple[int, float, str]:
    shown, order = found.worst, list(Verdict)
    return order.index(shown.verdict), -(shown.change or 0.0), found.label


def case_label(record: Record) -> str:
    """A case as a reader knows it: arm, step, tokens, routing and what was swept."""
    parts = [arm_name(record), step_name(record), f"x{record.case.tokens}", routing_name(record), swept(record)]
    return " ".join(part for part in parts if part)


def _compare(
    base: Record | None, head: Record | None, how: Comparability, thresholds: Thresholds
) -> CaseComparison | None:
    some = head or base
    assert some is not None
    status = _status_verdict(base, head)
    if status is not None:
        return CaseComparison(some.id, case_label(some), [status])
    assert base is not None and head is not None
    if base.status != "ok":
        return None  # failed or was skipped on both sides: nothing to compare
    counted = _counted_verdicts(base, head, thresholds)
    timed = _timed_verdicts(base, head, how, thresholds)
    return CaseComparison(head.id, case_label(head), [*timed, *counted])


def _status_verdict(base: Record | None, head: Record | None) -> MetricVerdict | None:
    """What the two states alone say, or None where both were measured or neither was."""
    was_ok, is_ok = base is not None and base.status == "ok", head is not None and head.status == "ok"
    if base is None:
        assert head is not None
        return MetricVerdict("status", Verdict.NEW, f"not in the baseline; {head.status}")
    if head is None:
        return MetricVerdict("status", Verdict.MISSING, "in the baseline, not in the new file") if was_ok else None
    if was_ok and not is_ok:
        return MetricVerdict("status", Verdict.FAILED, f"was ok, now {head.status}: {head.reason or 'no reason given'}")
    if is_ok and not was_ok:
        return MetricVerdict("status", Verdict.FIXED, f"was {base.status}: {base.reason or 'no reason given'}")
    return None


def _counted_verdicts(base: Record, head: Record, thresholds: Thresholds) -> list[MetricVerdict]:
    found = []
    for metric in COUNTED:
        before, now = metric.of_record(base), metric.of_record(head)
        if before is not None and now is not None:
            found.append(judge_counted(metric.name, before, now, limits(thresholds, head.case, metric)))
    return found


def _timed_verdicts(base: Record, head: Record, how: Comparability, thresholds: Thresholds) -> list[MetricVerdict]:
    found = []
    slowdown = 0.0 if how.paired or how.timings else machine_slowdown(base, head)
    for metric in TIMED:
        allowed = limits(thresholds, head.case, metric)
        before, now = _by_round(base, metric), _by_round(head, metric)
        if allowed.margin is None or not before or not now:
            continue
        if how.timings:
            medians = statistics.median(before.values()), statistics.median(now.values())
            found.append(MetricVerdict(metric.name, Verdict.INCOMPARABLE, how.timings, *medians, allowed.margin))
        elif how.paired:
            found.append(_judge_in_turn(metric, base, head, before, now, allowed))
        else:
            found.append(judge_unpaired(metric.name, [*before.values()], [*now.values()], allowed, slowdown))
    if not found:
        found.append(MetricVerdict(TIMED[0].name, Verdict.INCOMPARABLE, "no round has a timing on both sides"))
    return found


def _by_round(record: Record, metric: TimedMetric) -> dict[int, float]:
    tokens = record.case.tokens
    return {r.number: v for r in record.rounds if r.status == "ok" and (v := metric.in_round(r, tokens))}


def _judge_in_turn(
    metric: TimedMetric, base: Record, head: Record, before: dict[int, float], now: dict[int, float], allowed: Limits
) -> MetricVerdict:
    numbers = sorted(before.keys() & now.keys())
    if not numbers:
        return MetricVerdict(metric.name, Verdict.INCOMPARABLE, "no round was measured on both sides")
    effects = [math.log(now[n] / before[n]) for n in numbers]
    if metric.name == "latency_ms_p50":
        effects = _effects_in_turn(base, head, numbers)
    return judge_paired(metric.name, [before[n] for n in numbers], [now[n] for n in numbers], effects, allowed)


def _effects_in_turn(base: Record, head: Record, numbers: list[int]) -> list[float]:
    """ln(head / base) of each round: the median over its samples, which were taken in turn.

    What the machine does to one sample it does to its neighbour, so neighbours are divided before
    anything is summed up.
    """
    before, now = ({r.number: r for r in record.rounds} for record in (base, head))
    return [in_turn_effect(before[n].samples_s, now[n].samples_s) for n in numbers]


def in_turn_effect(base_s: list[float], head_s: list[float]) -> float:
    """The median of ln(head_i / base_i) over neighbouring samples."""
    return statistics.median(math.log(h / b) for b, h in zip(base_s, head_s, strict=False))
