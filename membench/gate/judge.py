"""One metric judged: statistics for what varies, plain comparison for what does not."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from membench.gate.statistics import CONFIDENCE, Estimate, bootstrap_interval, fewest_paired_rounds, paired, unpaired
from membench.gate.thresholds import MetricThresholds
from membench.gate.verdicts import MetricVerdict, Verdict
from membench.words import how_many

TOPPED_UP_CONFIDENCE = 0.995  # rounds that were added because the first did not decide are a second look
OF_RATIOS = ", of the ratios to the pacer"  # how a method ends that compares no milliseconds
_EXACT = 1e-9  # relative: sums of floats in another order


def judge_paired(
    name: str,
    base: Sequence[float],
    head: Sequence[float],
    effects: Sequence[float],
    limits: MetricThresholds,
    confidence: float = CONFIDENCE,
) -> MetricVerdict:
    """A timing of rounds that were taken in turn: ``effects`` are ln(head / base) of each round."""
    fewest = fewest_paired_rounds(confidence)
    wanted = f"{how_many(len(effects), 'paired round')}; {fewest} are needed"
    return _decide(_open(name, base, head, limits), paired(effects, confidence), limits, 0.0, wanted)


def judge_unpaired(
    name: str,
    base: Sequence[float],
    head: Sequence[float],
    limits: MetricThresholds,
    machine_slowdown: float,
) -> MetricVerdict:
    """A timing of two separate runs.

    Args:
        base, head: a value a round.
        machine_slowdown: how much slower the machine itself was, ln, >= 0, by its worst ceiling or clock.
    """
    decided = _decide(_open(name, base, head, limits), unpaired(base, head), limits, machine_slowdown, _few(base, head))
    return _confirmed(decided, base, head)


def judge_paced(
    name: str,
    base: Sequence[float],
    head: Sequence[float],
    ratios: tuple[Sequence[float], Sequence[float]],
    limits: MetricThresholds,
    shared: Estimate | None,
) -> MetricVerdict:
    """A timing of two separate runs, each with a pacer: the ratios to it are judged, the values only shown.

    Args:
        base, head: a value a round.
        ratios: of both sides' rounds.
        shared: what is estimated with the spread of all cases; None where these are too few.
    """
    estimate = shared or unpaired(*ratios)
    estimate = replace(estimate, method=f"{estimate.method}{OF_RATIOS}")
    decided = _decide(_open(name, base, head, limits), estimate, limits, 0.0, _few(*ratios))
    return decided if shared else _confirmed(decided, *ratios)


def _few(base: Sequence[float], head: Sequence[float]) -> str:
    return f"{how_many(len(base), 'round')} against {len(head)}; 5 a side are needed (8 make it firm)"


def _confirmed(decided: MetricVerdict, base: Sequence[float], head: Sequence[float]) -> MetricVerdict:
    """What a rank test decided, if a bootstrap of the same rounds agrees."""
    if decided.verdict in (Verdict.SLOW, Verdict.FAST):
        low, high = bootstrap_interval(base, head)
        if not (low > 0 if decided.verdict is Verdict.SLOW else high < 0):
            return replace(decided, verdict=Verdict.INCONCLUSIVE, reason="rank test and bootstrap do not agree")
    return decided


def _open(name: str, base: Sequence[float], head: Sequence[float], limits: MetricThresholds) -> MetricVerdict:
    medians = statistics.median(base), statistics.median(head)
    return MetricVerdict(name, Verdict.INCONCLUSIVE, "", *medians, limits.margin)


def _decide(
    found: MetricVerdict, estimate: Estimate, limits: MetricThresholds, machine_slowdown: float, wanted: str
) -> MetricVerdict:
    """The verdict of an estimate; ``found`` has everything else, ``wanted`` says how many rounds would do."""
    assert limits.margin is not None
    assert found.base is not None
    assert found.head is not None
    # of the effect, not of the two medians: where neighbours were divided these also hold what the machine did
    gap, found = found.base * abs(math.expm1(estimate.effect)), replace(found, estimate=estimate)
    if estimate.low is None or estimate.high is None:
        return replace(found, reason=wanted)
    if limits.too_noisy:
        return replace(found, reason=f"this machine's noise ({limits.margin:.1%}) is over twice the margin asked")
    limit = math.log1p(limits.margin)
    slow, fast = estimate.low > 0 and estimate.effect > limit, estimate.high < 0 and estimate.effect < -limit
    if (slow or fast) and gap <= limits.floor:
        return replace(found, verdict=Verdict.SAME, reason=f"no more than {limits.floor:g} apart")
    if slow and estimate.effect - machine_slowdown <= limit:
        slower = f"the machine itself was up to {math.expm1(machine_slowdown):.1%} slower"
        return replace(found, reason=f"{slower} by its own ceilings")
    if slow or fast:
        return replace(found, verdict=Verdict.SLOW if slow else Verdict.FAST)
    if -limit < estimate.low and estimate.high < limit:
        return replace(found, verdict=Verdict.SAME)
    return replace(found, reason="the interval is too wide: more rounds would tell")


def judge_counted(name: str, base: float, head: float, limits: MetricThresholds) -> MetricVerdict:
    """A metric that a rerun must reproduce."""
    found = MetricVerdict(name, Verdict.SAME, "", base, head, limits.tolerance)
    slack = abs(base) * max(limits.tolerance, _EXACT)
    if head > base + slack:
        grown = "was 0" if base == 0 else f"grew by {100 * (head / base - 1):.2g} %"
        reason = f"{grown}, {100 * limits.tolerance:g} % is allowed"
        return replace(found, verdict=Verdict.WORSE, reason=reason)
    return replace(found, verdict=Verdict.BETTER) if head < base - slack else found


def judge_limit(name: str, head: float, limits: MetricThresholds) -> MetricVerdict | None:
    """WORSE where a value is above what ``gate.yaml`` states for it, whatever the baseline was; else None."""
    if limits.limit is None or head <= limits.limit:
        return None
    return MetricVerdict(name, Verdict.WORSE, f"above the stated limit of {limits.limit:g}", None, head)
