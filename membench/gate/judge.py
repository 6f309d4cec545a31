"""One metric judged: statistics for what varies, plain comparison for what does not."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from membench.gate.statistics import CONFIDENCE, Estimate, bootstrap_interval, fewest_paired_rounds, paired, unpaired
from membench.gate.thresholds import Limits
from membench.gate.verdicts import MetricVerdict, Verdict

PLANNED_ROUNDS = 10
TOPPED_UP_CONFIDENCE = 0.995
_EXACT = 1e-9  # relative: sums of floats in another order


def judge_paired(
    name: str, base: Sequence[float], head: Sequence[float], effects: Sequence[float], limits: Limits
) -> MetricVerdict:
    """A timing of rounds that were taken in turn: ``effects`` are ln(head / base) of each round."""
    found = MetricVerdict(
        name, Verdict.INCONCLUSIVE, "", statistics.median(base), statistics.median(head), limits.margin
    )
    # More rounds than planned for were added because the first did not decide: a second look, held to a stricter rule.
    estimate = paired(effects, CONFIDENCE if len(effects) <= PLANNED_ROUNDS else TOPPED_UP_CONFIDENCE)
    wanted = f"{len(effects)} paired rounds; {fewest_paired_rounds()} are needed"
    return _decide(found, estimate, limits, machine_slowdown=0.0, wanted=wanted)


def judge_unpaired(
    name: str, base: Sequence[float], head: Sequence[float], limits: Limits, machine_slowdown: float
) -> MetricVerdict:
    """A timing of two separate runs.

    Args:
        base, head: a value a round.
        machine_slowdown: how much slower the machine itself was, ln, >= 0, by its worst yardstick.
    """
    found = MetricVerdict(
        name, Verdict.INCONCLUSIVE, "", statistics.median(base), statistics.median(head), limits.margin
    )
    estimate = unpaired(base, head)
    wanted = f"{len(base)} rounds against {len(head)}; 5 a side are needed (8 make it firm)"
    decided = _decide(found, estimate, limits, machine_slowdown, wanted)
    if decided.verdict in (Verdict.SLOW, Verdict.FAST):
        low, high = bootstrap_interval(base, head)
        if not (low > 0 if decided.verdict is Verdict.SLOW else high < 0):
            return replace(decided, verdict=Verdict.INCONCLUSIVE, reason="rank test and bootstrap do not agree")
    return decided


def _decide(
    found: MetricVerdict, estimate: Estimate, limits: Limits, machine_slowdown: float, wanted: str
) -> MetricVerdict:
    """The verdict of an estimate; ``found`` has everything else."""
    assert limits.margin is not None
    found = replace(found, estimate=estimate)
    if limits.limit is not None and found.head is not None and found.head > limits.limit:
        return replace(found, verdict=Verdict.WORSE, reason=f"above the stated limit of {limits.limit:g}")
    if estimate.low is None or estimate.high is None:
        return replace(found, reason=wanted)
    if limits.too_noisy:
        return replace(found, reason=f"this machine's noise ({limits.margin:.1%}) is over twice the margin asked")
    limit = math.log1p(limits.margin)
    assert found.base is not None and found.head is not None
    if estimate.low > 0 and estimate.effect > limit:
        if found.head - found.base <= limits.floor:
            return replace(found, verdict=Verdict.SAME, reason=f"less than {limits.floor:g} apart")
        if estimate.effect - machine_slowdown <= limit:
            slower = f"the machine itself was up to {math.expm1(machine_slowdown):.1%} slower"
            return replace(found, reason=f"{slower} by its own ceilings")
        return replace(found, verdict=Verdict.SLOW)
    if estimate.high < 0 and estimate.effect < -limit:
        return replace(found, verdict=Verdict.FAST)
    if -limit < estimate.low and estimate.high < limit:
        return replace(found, verdict=Verdict.SAME)
    return replace(found, reason="the interval is too wide: more rounds would tell")


def judge_counted(name: str, base: float, head: float, limits: Limits) -> MetricVerdict:
    """A metric that a rerun must reproduce."""
    found = MetricVerdict(name, Verdict.SAME, "", base, head, limits.tolerance)
    if limits.limit is not None and head > limits.limit:
        return replace(found, verdict=Verdict.WORSE, reason=f"above the stated limit of {limits.limit:g}")
    slack = abs(base) * max(limits.tolerance, _EXACT)
    if head > base + slack:
        grown = "was 0" if base == 0 else f"grew by {100 * (head / base - 1):.2g} %"
        reason = f"{grown}, {100 * limits.tolerance:g} % is allowed"
        return replace(found, verdict=Verdict.WORSE, reason=reason)
    if head < base - slack:
        return replace(found, verdict=Verdict.BETTER)
    return found
