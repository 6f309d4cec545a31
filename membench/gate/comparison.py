"""A whole comparison: groups of files, their cases and suites, and the exit code that it comes to."""

import math
import statistics
from dataclasses import dataclass

from membench.gate.cases import CaseComparison, comparability, compare_cases, in_turn_effect
from membench.gate.judge import judge_paired
from membench.gate.result_set import Group, LoadedResult
from membench.gate.thresholds import Limits, Thresholds
from membench.gate.verdicts import MetricVerdict, Verdict
from membench.records import ResultFile

SUITE_MARGIN = 0.01  # a mean over cases moves less than any of them
_FEWEST_CASES = 2


@dataclass(frozen=True, slots=True)
class FileComparison:
    """One file against its baseline.

    ``advisory``: None, or why its timings cannot fail a build. ``incomparable``: None, or why
    nothing at all could be compared. ``suite``: all cases taken together, where they are paired.
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
        """Whether a case fails the build: a timing does only where timings are more than advice."""
        return any(m.verdict.is_regression and self.counts(m) for m in case.metrics)

    def counts(self, metric: MetricVerdict) -> bool:
        return self.advisory is None or metric.verdict is not Verdict.SLOW

    @property
    def regressions(self) -> list[CaseComparison]:
        return [case for case in self.cases if self.fails(case)]

    @property
    def is_open(self) -> bool:
        """Whether any timing stayed without an answer."""
        return any(m.verdict.is_open for case in self.cases for m in case.metrics)


def compare_group(group: Group, thresholds: Thresholds) -> list[FileComparison]:
    """Each judged file of a group against its baseline."""
    if group.baseline is None:
        return []
    return [compare_files(group.baseline, head, thresholds, group.advisory) for head in group.judged]


def compare_files(
    base: LoadedResult, head: LoadedResult, thresholds: Thresholds, advisory: str | None = None
) -> FileComparison:
    """One file against another."""
    before, now = base.result, head.result
    reason = _incomparable(before, now)
    cases = [] if reason else compare_cases(before, now, thresholds)
    suite = None if reason else _suite(before, now)
    return FileComparison(now.run.scenario, head.device, base, head, cases, suite, advisory, reason)


def _incomparable(base: ResultFile, head: ResultFile) -> str | None:
    if base.run.method_version != head.run.method_version:
        versions = f"{base.run.method_version} and {head.run.method_version}"
        return f"they are of method versions {versions} (CHANGELOG.md says what changed): measure the baseline anew"
    if not {record.id for record in base.cases} & {record.id for record in head.cases}:
        return "they have no case in common"
    if not any(record.status == "ok" for record in base.cases):
        why = next((f": {record.reason}" for record in base.cases if record.reason), "")
        return f"the baseline has no case that was measured{why}"
    return None


def _suite(base: ResultFile, head: ResultFile) -> MetricVerdict | None:
    """All cases together: the mean of their effects in each round, where rounds are paired."""
    if not comparability(base, head).paired:
        return None  # two runs' machines differ by more than a suite's margin
    now = {record.id: record for record in head.cases if record.status == "ok"}
    effects: dict[int, list[float]] = {}
    common = [record for record in base.cases if record.status == "ok" and record.id in now]
    for record in common:
        heads = {r.number: r for r in now[record.id].rounds}
        for r in record.rounds:
            if r.number in heads:
                effects.setdefault(r.number, []).append(in_turn_effect(r.samples_s, heads[r.number].samples_s))
    whole = [statistics.fmean(of) for of in effects.values() if len(of) == len(common)]
    if len(common) < _FEWEST_CASES or not whole:
        return None
    ratios = [math.exp(effect) for effect in whole]
    allowed = Limits(SUITE_MARGIN, SUITE_MARGIN, 0.0, 0.0, None)
    return judge_paired("geometric mean of all cases", [1.0] * len(ratios), ratios, whole, allowed)
