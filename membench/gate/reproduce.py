"""The one command that shows a finding again."""

import shlex

from membench.gate.cases import CaseComparison
from membench.gate.comparison import FileComparison
from membench.results.records import Run


def reproduce_command(comparison: FileComparison, case: CaseComparison) -> str:
    """Paired where the two commits are known and differ, else a run of that case."""
    base, head = comparison.base.result.run, comparison.head.result.run
    where = [head.source or head.scenario, *_overrides(head), *(["--case", case.id] if case.id else [])]
    if base.git_sha and head.git_sha and base.git_sha != head.git_sha and not head.git_dirty:
        return shlex.join(["membench", "ab", base.git_sha, head.git_sha, "--scenario", *where])
    return shlex.join(["membench", "run", *where])


def _overrides(run: Run) -> list[str]:
    return [word for override in run.overrides for word in ("--set", override)]
