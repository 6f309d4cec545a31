"""Runs of a scenario one after the other, with or without another process beside them."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from benchmarks.gate_series import load
from benchmarks.going_on import run_membench
from membench.case import METHOD_VERSION
from membench.errors import UsageError
from membench.git.commit import running_commit
from membench.processes.signals import ended_as_interrupted
from membench.results.records import read_result
from membench.running.journal import check_folder
from membench.scenario.scenario import load_scenario


def finished_runs(folder: Path, scenario: str, sha: str | None) -> list[Path]:
    """The runs of a commit, by this version of the method, that are whole; the oldest first."""
    found = []
    for path in sorted(folder.glob("*.json")):
        run = read_result(path).run
        alike = run.scenario == scenario and run.git_sha == sha and run.method_version == METHOD_VERSION
        if alike and not run.interrupted and not run.only:
            found.append(path)
    return found


def make_runs(source: str, folder: Path, runs: int, *, loaded: bool) -> list[Path]:
    """As many whole runs as asked for; those that are there count, and one that was interrupted goes on.

    Args:
        source: a scenario's name or file.

    Raises:
        UsageError: there is no such scenario, the folder cannot be written, a run failed, or the load ended before it.
    """
    scenario, sha = load_scenario(source).name, running_commit().sha
    check_folder(folder, "--keep")
    with ended_as_interrupted(), load(0) if loaded else nullcontext():
        while len(done := finished_runs(folder, scenario, sha)) < runs:
            print(f"run {len(done) + 1} of {runs}", file=sys.stderr, flush=True)
            words = ["run", source, "--output", str(folder)]
            code = run_membench(words, folder, scenario, stdout=subprocess.DEVNULL)
            if code:
                told = f"membench {' '.join(words)} ended with {code}"
                raise UsageError(f"{told}; the runs before it are kept in {folder}")
            if len(finished_runs(folder, scenario, sha)) == len(done):
                raise UsageError(f"the run in {folder} is of another commit than {sha}: commit nothing meanwhile")
    return done[:runs]
