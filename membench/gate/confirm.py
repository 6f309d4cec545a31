"""A slowdown counts when fresh rounds show it again. Nothing is pooled: the second look is a test of its own.

With a hundred cases one in a hundred would be slow by chance, and no correction of p-values can
mend that at ten rounds (the least p is 2 / 2^10); two independent looks can.
"""

from dataclasses import replace

from membench.gate.cases import CaseComparison
from membench.gate.comparison import FileComparison
from membench.gate.verdicts import MetricVerdict, Verdict


def confirmed(first: FileComparison, second: FileComparison) -> FileComparison:
    """The first comparison, its slow metrics kept only where the second finds them slow too."""
    again = {case.id: case for case in second.cases}
    cases = [_confirmed_case(case, again.get(case.id)) for case in first.cases]
    suite = first.suite and _confirmed_metric(first.suite, second.suite)
    order = list(Verdict)
    cases.sort(key=lambda case: order.index(case.worst.verdict))
    return replace(first, cases=cases, suite=suite)


def _confirmed_case(case: CaseComparison, again: CaseComparison | None) -> CaseComparison:
    found = {metric.metric: metric for metric in again.metrics} if again else {}
    return replace(case, metrics=[_confirmed_metric(metric, found.get(metric.metric)) for metric in case.metrics])


def _confirmed_metric(first: MetricVerdict, second: MetricVerdict | None) -> MetricVerdict:
    if first.verdict is not Verdict.SLOW:
        return first
    if second is None or second.change is None or second.estimate is None:
        return replace(first, verdict=Verdict.INCONCLUSIVE, reason="could not be measured again")
    seen = f"{second.change:+.1%} on {second.estimate.rounds} fresh rounds"
    if second.verdict is Verdict.SLOW:
        return replace(first, reason=f"confirmed: {seen}")
    return replace(first, verdict=Verdict.INCONCLUSIVE, reason=f"not confirmed: {seen}")
