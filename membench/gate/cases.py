"""Two result files case by case: matched by id, judged metric by metric."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from membench.gate.judge import (
    TOPPED_UP_CONFIDENCE,
    judge_counted,
    judge_limit,
    judge_paced,
    judge_paired,
    judge_unpaired,
)
from membench.gate.learnt import Sides, learnt_verdicts, sides_of, trained_in_both
from membench.gate.machine import machine_slowdown
from membench.gate.metrics import COUNTED, TIMED, TimedMetric
from membench.gate.pacing import Pacing, pacing, ratios_by_round, torch_versions
from membench.gate.rounds import by_round, latency_effects
from membench.gate.shared_spread import shared_spread
from membench.gate.statistics import CONFIDENCE, Estimate
from membench.gate.thresholds import MetricThresholds, Thresholds, limits
from membench.gate.verdicts import ORDER, MetricVerdict, Verdict, worst
from membench.machine.identity import Machine
from membench.results.conditions import conditions_differ, same_software
from membench.results.disturbance import touched_rounds
from membench.results.ranking import arm_name, is_summed, routing_name, step_name, swept, trained_name
from membench.results.records import Pair, Record, ResultFile
from membench.words import how_many

_LATENCY = TIMED[0]
OTHER_CONDITIONS = "measured under other conditions"


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

    ``pair``: the head's, where the samples of both were taken in turn. ``same_device``: what depends
    on the device may be compared. ``timings``: None, or why timings may not. ``partial``: None, or
    why a case may be missing from the head by right. ``torch``: both runs' versions.
    """

    pair: Pair | None
    same_device: bool
    timings: str | None
    partial: str | None
    torch: tuple[str | None, str | None]


def comparability(base: ResultFile, head: ResultFile) -> Comparability:
    """How two files stand to each other."""
    machine, other = (Machine.of(each.environment) for each in (base, head))
    difference = machine.difference(other)
    before, now = base.run.pair, head.run.pair
    in_turn = before and now and (before.id, before.phase) == (now.id, now.phase) and before.side != now.side
    timings = None
    if difference:
        known = machine.known and other.known
        timings = f"measured on another device: {difference}" if known else "the device is not known"
    elif not in_turn and (before or now):
        timings = "the sides of an ab are timed in turn, which takes longer than alone: only they compare"
    partial = "only some cases were asked for (--case)" if head.run.only else None
    if head.run.interrupted:
        partial = "the new run was interrupted"
    return Comparability(now if in_turn else None, difference is None, timings, partial, torch_versions(base, head))


def compare_cases(base: ResultFile, head: ResultFile, thresholds: Thresholds) -> list[CaseComparison]:
    """Every case of either file, the worst first; none for what was measured in neither."""
    how, sides = comparability(base, head), sides_of(base, head)
    shared, trained = _shared_spread(sides, how), trained_in_both(sides.values())
    found = [_compare(*of, how, thresholds, shared.get(id_), trained) for id_, of in sides.items()]
    return sorted((each for each in found if each), key=badness)


def _shared_spread(sides: Mapping[str, Sides], how: Comparability) -> dict[str, Estimate]:
    """Of the cases that both runs timed in turn with the same pacer, by id."""
    if how.pair or how.timings:
        return {}
    both = {id_: (base, head) for id_, (base, head) in sorted(sides.items()) if base and head}
    paced = {id_: of for id_, of in both.items() if pacing(*of, how.torch).paced}
    return shared_spread({id_: (_ratios(base), _ratios(head)) for id_, (base, head) in paced.items()})


def _ratios(record: Record) -> list[float]:
    return [*ratios_by_round(record).values()]


def badness(found: CaseComparison) -> tuple[int, float, str]:
    """What cases are ordered by: the verdict, then the change, the largest first."""
    shown = found.worst
    return ORDER.index(shown.verdict), -(shown.change or 0.0), found.label


def case_label(record: Record) -> str:
    """A case as a reader knows it: arm, step, tokens, routing and what was swept; or what it was trained on."""
    if record.case.training is not None:
        return f"{arm_name(record)} {trained_name(record)}"
    parts = [arm_name(record), step_name(record), f"x{record.case.tokens}", routing_name(record), swept(record)]
    return " ".join(part for part in parts if part)


def _compare(
    base: Record | None,
    head: Record | None,
    how: Comparability,
    thresholds: Thresholds,
    shared: Estimate | None,
    trained: int,
) -> CaseComparison | None:
    some = head or base
    assert some is not None
    metrics = _limits_broken(head, thresholds) if head and head.status == "ok" else []
    status = _status_verdict(base, head, how)
    if status is not None:
        metrics.append(status)
    elif base and head and is_summed(base) != is_summed(head):
        why = "one was measured whole, the other is the sum of its blocks"
        metrics.append(MetricVerdict("status", Verdict.INCOMPARABLE, why))
    elif base and head and base.status == head.status == "ok":
        if head.case.training is not None:
            metrics += learnt_verdicts(base, head, thresholds, trained)
        else:
            metrics += _timed_verdicts(base, head, how, thresholds, shared)
        metrics += _counted_verdicts(base, head, how, thresholds)
    return CaseComparison(some.id, case_label(some), metrics) if metrics else None


def _status_verdict(base: Record | None, head: Record | None, how: Comparability) -> MetricVerdict | None:
    """What the two states alone say, or None where both were measured or neither was."""
    was_ok, is_ok = base is not None and base.status == "ok", head is not None and head.status == "ok"
    if was_ok and not is_ok:
        reached = head is not None and head.rounds
        if how.partial and not reached:
            return MetricVerdict("status", Verdict.INCOMPARABLE, f"not measured: {how.partial}")
        if head is None:
            return MetricVerdict("status", Verdict.MISSING, "in the baseline, not in the new file")
        return MetricVerdict("status", Verdict.FAILED, f"was ok, now {head.status}: {head.reason or 'no reason given'}")
    if is_ok and base is None:
        return MetricVerdict("status", Verdict.NEW, "not in the baseline")
    if is_ok and base is not None and not was_ok:
        state = f"{base.status}: {base.reason or 'no reason given'}"
        if how.pair:  # in the same minutes: nothing was repaired since
            return MetricVerdict("status", Verdict.INCOMPARABLE, f"the base could not be measured: {state}")
        return MetricVerdict("status", Verdict.FIXED, f"was {state}")
    return None


def _limits_broken(head: Record, thresholds: Thresholds) -> list[MetricVerdict]:
    """What ``gate.yaml`` forbids whatever the baseline is."""
    values = {metric: metric.of_record(head) for metric in COUNTED}
    values |= {m: statistics.median(of.values()) for m in TIMED if (of := by_round(head, m))}
    found = (judge_limit(m.name, v, limits(thresholds, head.case, m)) for m, v in values.items() if v is not None)
    return [each for each in found if each]


def _counted_verdicts(base: Record, head: Record, how: Comparability, thresholds: Thresholds) -> list[MetricVerdict]:
    found, one_build = [], how.torch[0] == how.torch[1] and same_software(base, head)
    for metric in COUNTED:
        before, now = metric.of_record(base), metric.of_record(head)
        if metric.of_one_build and not one_build:
            continue
        if before is not None and now is not None and (metric.on_any_device or how.same_device):
            found.append(judge_counted(metric.name, before, now, limits(thresholds, head.case, metric)))
    return found


def _timed_verdicts(
    base: Record, head: Record, how: Comparability, thresholds: Thresholds, shared: Estimate | None
) -> list[MetricVerdict]:
    found = []
    paced = Pacing(paced=False) if how.pair else pacing(base, head, how.torch)
    other = None if how.pair or how.timings else conditions_differ(base, head) or paced.refused
    refused = how.timings or (f"{OTHER_CONDITIONS}: {other}" if other else None)
    slowdown = 0.0 if how.pair or refused else machine_slowdown(base, head)
    for metric in TIMED:
        allowed = limits(thresholds, head.case, metric)
        before, now = by_round(base, metric), by_round(head, metric)
        if allowed.margin is None or not before or not now:
            continue
        if refused:
            medians = statistics.median(before.values()), statistics.median(now.values())
            found.append(MetricVerdict(metric.name, Verdict.INCOMPARABLE, refused, *medians, allowed.margin))
        elif how.pair:
            found.append(_judge_in_turn(metric, base, head, allowed, how.pair))
        elif metric is _LATENCY and paced.paced:
            ratios = _ratios(base), _ratios(head)
            values = [*before.values()], [*now.values()]
            found.append(judge_paced(metric.name, *values, ratios, allowed, shared))
        else:
            judged = judge_unpaired(metric.name, [*before.values()], [*now.values()], allowed, slowdown)
            why = paced.milliseconds if metric is _LATENCY else None
            found.append(replace(judged, reason="; ".join(filter(None, [judged.reason, why]))))
    if not found:
        found.append(MetricVerdict(_LATENCY.name, Verdict.INCOMPARABLE, "no round has a timing on both sides"))
    disturbed = _disturbed(base, head)
    return [replace(each, reason="; ".join(filter(None, [each.reason, disturbed]))) for each in found]


def _disturbed(base: Record, head: Record) -> str:
    """Which side's rounds stayed disturbed, or were cut short, to be said of each of their times; '' where none was."""
    sides = (("in the baseline", touched_rounds(base)), ("now", touched_rounds(head)))
    told = [f"{how_many(len(rounds), 'round')} {where}" for where, rounds in sides if rounds]
    return f"disturbed: {', '.join(told)}" if told else ""


def _judge_in_turn(
    metric: TimedMetric, base: Record, head: Record, allowed: MetricThresholds, pair: Pair
) -> MetricVerdict:
    before, now = by_round(base, metric), by_round(head, metric)
    if metric is _LATENCY:
        effects = latency_effects(base, head)
    else:
        effects = {n: math.log(now[n] / before[n]) for n in sorted(before.keys() & now.keys())}
    if not effects:
        return MetricVerdict(metric.name, Verdict.INCOMPARABLE, "no round was measured on both sides")
    confidence = CONFIDENCE if len(effects) <= pair.planned_rounds else TOPPED_UP_CONFIDENCE
    sides = [before[n] for n in effects], [now[n] for n in effects]
    return judge_paired(metric.name, *sides, [*effects.values()], allowed, confidence)
