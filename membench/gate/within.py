"""The layers of one run held against a reference layer, group by group."""

import math
from dataclasses import dataclass, replace

from membench.errors import UsageError, suggestion
from membench.gate.judge import judge_paired
from membench.gate.metrics import TIMED
from membench.gate.rounds import by_round
from membench.gate.thresholds import Thresholds, limits
from membench.gate.verdicts import MetricVerdict, Verdict
from membench.results.intervals import FEWEST_ROUNDS
from membench.results.ranking import added_ms, arm_name, comparable_groups
from membench.results.records import Record, ResultFile

_LATENCY = TIMED[0]


@dataclass(frozen=True, slots=True)
class WithinRow:
    """One layer beside the reference: step times (compute and predicted communication) of every round."""

    group: str
    arm: str
    reference: str
    found: MetricVerdict


def compare_within(result: ResultFile, reference: str, thresholds: Thresholds) -> list[WithinRow]:
    """Every arm against the reference arm, wherever both were measured at the same point.

    A round measures every arm once, so rounds are paired by their number.

    Raises:
        UsageError: the file has no such arm.
    """
    arms = list(dict.fromkeys(record.case.arm for record in result.cases))
    if reference not in arms:
        raise UsageError(f"no layer of this name in the file; {suggestion(reference, arms)}", key=reference)
    rows = []
    for title, records in comparable_groups(result.cases).items():
        base = next((r for r in records if r.case.arm == reference and r.status == "ok"), None)
        if base is None:
            continue
        others = [r for r in records if r is not base]
        rows += [WithinRow(title, arm_name(r), arm_name(base), _judge(base, r, thresholds)) for r in others]
    return rows


def _judge(base: Record, head: Record, thresholds: Thresholds) -> MetricVerdict:
    if head.status != "ok":
        return MetricVerdict("step_ms", Verdict.INCOMPARABLE, f"{head.status}: {head.reason or 'no reason given'}")
    before, now = _step_ms(base), _step_ms(head)
    numbers = sorted(before.keys() & now.keys())
    if not numbers:
        return MetricVerdict("step_ms", Verdict.INCOMPARABLE, "no round was measured on both sides")
    effects = [math.log(now[n] / before[n]) for n in numbers]
    allowed = limits(thresholds, head.case, _LATENCY)
    found = judge_paired("step_ms", [before[n] for n in numbers], [now[n] for n in numbers], effects, allowed)
    if found.estimate is None or found.estimate.low is not None or len(numbers) < FEWEST_ROUNDS:
        return found
    return replace(found, reason=f"{found.reason}; membench report says which arms these tell apart")


def _step_ms(record: Record) -> dict[int, float]:
    """Milliseconds of each round's step, communication included where it is known."""
    added = added_ms(record)
    return {number: latency_ms + added for number, latency_ms in by_round(record, _LATENCY).items()}
