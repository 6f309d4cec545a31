"""What the rounds of a case say of a metric, and of two cases whose rounds were taken in turn."""

import math
import statistics

from membench.gate.metrics import TimedMetric, are_times
from membench.results.records import Record, Round


def by_round(record: Record, metric: TimedMetric) -> dict[int, float]:
    """The metric's value in every round that was measured, by the round's number."""
    tokens = record.case.tokens
    return {r.number: v for r in record.rounds if r.status == "ok" and (v := metric.in_round(r, tokens))}


def in_turn_effect(base_s: list[float], head_s: list[float]) -> float:
    """The median of ln(head_i / base_i) over neighbouring samples.

    What the machine does to one sample it does to its neighbour, so neighbours are divided before
    anything is summed up.
    """
    return statistics.median(math.log(h / b) for b, h in zip(base_s, head_s, strict=False))


def latency_effects(base: Record, head: Record) -> dict[int, float]:
    """ln(head / base) of each round that both sides measured, its samples taken in turn."""
    before, now = ({r.number: r for r in record.rounds if _is_timed(r)} for record in (base, head))
    common = sorted(before.keys() & now.keys())
    return {n: in_turn_effect(before[n].samples_s, now[n].samples_s) for n in common}


def _is_timed(round_: Round) -> bool:
    return round_.status == "ok" and are_times(round_.samples_s)
