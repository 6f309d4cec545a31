"""A regression of an ab counts when fresh rounds show it again. Nothing is pooled: the second look stands alone.

With a hundred cases one in a hundred would be slow by chance, and no correction of p-values can
mend that at ten rounds (the least p is 2 / 2^10); two independent looks can. A case that failed
gets its second chance too: a machine can run out of memory once.
"""

from dataclasses import replace

from membench.gate.cases import CaseComparison
from membench.gate.verdicts import MetricVerdict, Verdict

_LOOKED_AT_AGAIN = (Verdict.SLOW, Verdict.FAILED)


def needs_confirmation(case: CaseComparison) -> bool:
    """Whether chance alone may have done it."""
    return any(metric.verdict in _LOOKED_AT_AGAIN for metric in case.metrics)


def confirmed_case(case: CaseComparison, again: CaseComparison | None) -> CaseComparison:
    """The case with what the second look says of it."""
    if not needs_confirmation(case):
        return case
    found = {metric.metric: metric for metric in again.metrics} if again else {}
    failed = found.get("status")
    if failed is not None and failed.verdict is Verdict.FAILED:
        return replace(case, metrics=[failed, *(m for m in case.metrics if m.verdict not in _LOOKED_AT_AGAIN)])
    return replace(case, metrics=[confirmed_metric(metric, found.get(metric.metric)) for metric in case.metrics])


def confirmed_metric(first: MetricVerdict, second: MetricVerdict | None) -> MetricVerdict:
    """A metric with what the second look says of it."""
    if first.verdict is Verdict.FAILED:
        reason = f"not confirmed, it works on fresh rounds: {first.reason}"
        return replace(first, verdict=Verdict.INCONCLUSIVE, reason=reason)
    if first.verdict is not Verdict.SLOW:
        return first
    if second is None or second.change is None or second.estimate is None:
        return replace(first, verdict=Verdict.INCONCLUSIVE, reason="could not be measured again")
    seen = f"{second.change:+.1%} on {second.estimate.rounds} fresh rounds"
    if second.verdict is Verdict.SLOW:
        return replace(first, reason=f"confirmed: {seen}")
    return replace(first, verdict=Verdict.INCONCLUSIVE, reason=f"not confirmed: {seen}")
