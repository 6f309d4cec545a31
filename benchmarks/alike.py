"""Whether runs may be held against each other as runs of one thing: the same scenario, commit, method and machine."""

from collections.abc import Sequence
from datetime import datetime
from itertools import combinations

from membench.errors import UsageError, shown
from membench.gate.result_set import LoadedResult


def check_alike(runs: Sequence[LoadedResult]) -> None:
    """Refuses runs that differ in more than when they were made.

    Raises:
        UsageError: there are fewer than two, one was interrupted, one is there twice, or they are of several scenarios,
            machines, commits …
    """
    if len(runs) < 2:
        raise UsageError(f"two runs or more are compared; there is {len(runs)}")
    if cut := next((each for each in runs if each.result.run.interrupted), None):
        raise UsageError("is an interrupted run; name whole ones", source=str(cut.path))
    for each in runs:
        _check_time(each)
    for one, other in combinations(runs, 2):
        if one.result == other.result:
            raise UsageError(f"is the same run as {other.path}; name each run once", source=str(one.path))
    for what, of in {
        "scenarios": [each.result.run.scenario for each in runs],
        "commits": [str(each.result.run.git_sha) for each in runs],
        "overrides": [" ".join(each.result.run.overrides) for each in runs],
        "versions of the method": [str(each.result.run.method_version) for each in runs],
        "choices of cases": [" ".join(each.result.run.only) for each in runs],
    }.items():
        if len(set(of)) > 1:
            raise UsageError(f"the runs are of several {what} ({', '.join(sorted(set(of)))}); name those of one")
    first = runs[0]
    for each in runs[1:]:
        if difference := first.machine.difference(each.machine):
            raise UsageError(f"the runs are of several machines ({difference}); name those of one")


def _check_time(run: LoadedResult) -> None:
    started = run.result.run.started
    try:
        datetime.fromisoformat(started)
    except ValueError:
        problem = f"{shown(started)} is no time; one as in 2026-01-01T00:00:00Z is wanted"
        raise UsageError(problem, key="run.started", source=str(run.path)) from None
