"""A whole comparison: two files, their cases, and all cases taken together."""

import math
import statistics
from dataclasses import dataclass, replace

from membench.gate.cases import OTHER_CONDITIONS, CaseComparison, badness, comparability, compare_cases
from membench.gate.confirm import confirmed_case, confirmed_metric
from membench.gate.judge import judge_paired
from membench.gate.learnt import sides_of
from membench.gate.metrics import TIMED
from membench.gate.result_set import Group, LoadedResult
from membench.gate.rounds import latency_effects
from membench.gate.thresholds import MetricThresholds, Thresholds
from membench.gate.verdicts import MetricVerdict, Verdict
from membench.results.records import ResultFile

SUITE_MARGIN = 0.01  # a mean over cases moves less than any of them
_FEWEST_CASES = 2
_TIMED = {metric.name for metric in TIMED}


@dataclass(frozen=True, slots=True)
class FileComparison:
    """One file against its baseline.

    ``suite``: all cases taken together, where they are paired. ``advisory``: None, or why its timings
    cannot fail a build. ``incomparable``: None, or why nothing at all (or no time) could be compared.
    """

    scenario: str
    device: str
    base: LoadedResult
    head: LoadedResult
    cases: list[CaseComparison]
    suite: MetricVerdict | None = None
    advisory: str | None = None
    incomparable: str | None = None

    def fails(self, case: CaseComparison) -> bool:
        """Whether a case fails the build."""
        return any(map(self.fails_by, case.metrics))

    def fails_by(self, metric: MetricVerdict) -> bool:
        """Whether a metric fails the build: a timing does only where timings are more than advice."""
        return metric.verdict.is_regression and (self.advisory is None or metric.verdict is not Verdict.SLOW)

    @property
    def regressions(self) -> list[CaseComparison]:
        return [case for case in self.cases if self.fails(case)]

    @property
    def together(self) -> list[CaseComparison]:
        """All cases taken together, as one more case; empty where they are not judged so."""
        return [CaseComparison("", "all cases", [self.suite])] if self.suite else []

    @property
    def suite_fails(self) -> bool:
        return self.suite is not None and self.fails_by(self.suite)

    @property
    def metrics(self) -> list[MetricVerdict]:
        """Every verdict that was given, the suite's too."""
        return [metric for case in self.cases for metric in case.metrics] + ([self.suite] if self.suite else [])


def compare_group(group: Group, thresholds: Thresholds) -> list[FileComparison]:
    """Each judged file of a group against its baseline; an ab's first look with what its second found."""
    if group.baseline is None:
        return []
    found = [compare_files(group.baseline, head, thresholds, group.advisory) for head in group.judged]
    if group.confirmation is None:
        return found
    return [confirmed(each, compare_files(*group.confirmation, thresholds)) for each in found]


def compare_files(
    base: LoadedResult, head: LoadedResult, thresholds: Thresholds, advisory: str | None = None
) -> FileComparison:
    """One file against another."""
    before, now = base.result, head.result
    reason = _incomparable(before, now)
    cases = [] if reason else compare_cases(before, now, thresholds)
    reason = reason or _other_conditions(cases)
    suite = None if reason else _suite(before, now)
    return FileComparison(now.run.scenario, head.device, base, head, cases, suite, advisory, reason)


def confirmed(first: FileComparison, second: FileComparison) -> FileComparison:
    """The first look at an ab, its regressions kept only where the second look finds them again."""
    again = {case.id: case for case in second.cases}
    cases = [confirmed_case(case, again.get(case.id)) for case in first.cases]
    suite = first.suite and confirmed_metric(first.suite, second.suite)
    return replace(first, cases=sorted(cases, key=badness), suite=suite)


def _incomparable(base: ResultFile, head: ResultFile) -> str | None:
    if base.run.method_version != head.run.method_version:
        versions = f"{base.run.method_version} and {head.run.method_version}"
        return f"they are of method versions {versions} (CHANGELOG.md says what changed): measure the baseline anew"
    if head.cases and not any(before and now for before, now in sides_of(base, head).values()):
        return "they have no case in common"
    if not any(record.status == "ok" for record in base.cases):
        why = next((f": {record.reason}" for record in base.cases if record.reason), "")
        return f"the baseline has no case that was measured{why}"
    return None


def _other_conditions(cases: list[CaseComparison]) -> str | None:
    """Why no time at all could be held against another, where conditions are why; counts were compared all the same."""
    timed = [metric for case in cases for metric in case.metrics if metric.metric in _TIMED]
    refused = [m.reason for m in timed if m.verdict is Verdict.INCOMPARABLE and m.reason.startswith(OTHER_CONDITIONS)]
    return refused[0] if refused and len(refused) == len(timed) else None


def _suite(base: ResultFile, head: ResultFile) -> MetricVerdict | None:
    """All cases together: the mean of their effects in each round, where rounds are paired."""
    if comparability(base, head).pair is None:
        return None  # two runs' machines differ by more than a suite's margin
    now = {record.id: record for record in head.cases if record.status == "ok"}
    common = [record for record in base.cases if record.status == "ok" and record.id in now]
    effects: dict[int, list[float]] = {}
    for record in common:
        for number, effect in latency_effects(record, now[record.id]).items():
            effects.setdefault(number, []).append(effect)
    whole = [statistics.fmean(of) for of in effects.values() if len(of) == len(common)]
    if len(common) < _FEWEST_CASES or not whole:
        return None
    ratios = [math.exp(effect) for effect in whole]
    allowed = MetricThresholds(SUITE_MARGIN, SUITE_MARGIN, 0.0, 0.0, None)
    return judge_paired("geometric mean", [1.0] * len(ratios), ratios, whole, allowed)
