"""Measures every shipped scenario that has no recorded answer here: ``make results``.

    python -m benchmarks.all_scenarios [--force] [--output results]

A scenario is passed over if the folder holds a whole run of it, of at least three rounds, of this version of the
method, with the same text, on this machine. What was interrupted goes on; what fails is told at the end, and the next
one is measured all the same.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.documents.recorded import answers_scenario, read_all
from benchmarks.standings import MIN_ROUNDS
from membench.case import METHOD_VERSION
from membench.machine.identity import Machine
from membench.machine.provenance import probe_environment
from membench.results.records import ResultFile
from membench.running.journal import newest_journal
from membench.scenario.scenario import Scenario, load_scenario
from membench.scenario.shipped import list_scenarios


def missing(folder: Path, machine: Machine) -> list[str]:
    """The shipped scenarios that nothing in the folder answers for this machine."""
    runs = [each.result for each in read_all(sorted(folder.glob("*.json")))]
    return [name for name, _ in list_scenarios() if not any(answers(run, load_scenario(name), machine) for run in runs)]


def answers(result: ResultFile, scenario: Scenario, machine: Machine) -> bool:
    """Whether a run is of this scenario as it is now, by this method, on this machine."""
    run = result.run
    same = run.scenario == scenario.name and run.scenario_text == scenario.text and run.method_version == METHOD_VERSION
    return same and answers_scenario(result) and machine.difference(Machine.of(result.environment)) is None


def command(name: str, folder: Path) -> list[str]:
    """The words that measure a scenario in enough rounds, or go on with what was interrupted."""
    words = ["run", name, "--output", str(folder)]
    if load_scenario(name).measure.rounds < MIN_ROUNDS:
        words += ["--set", f"measure.rounds={MIN_ROUNDS}"]
    return [*words, "--resume"] if newest_journal(folder, name) is not None else words


def main() -> None:
    """Measures one scenario after the other; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="measure also what is recorded already")
    parser.add_argument("--output", type=Path, default=Path("results"))
    asked = parser.parse_args()
    every = [name for name, _ in list_scenarios()]
    wanted = every if asked.force else missing(asked.output, Machine.of(probe_environment("auto")))
    print(f"to measure: {', '.join(wanted) or 'nothing'}; recorded: {len(every) - len(wanted)} of {len(every)}")
    failed = []
    for name in wanted:
        code = subprocess.run([sys.executable, "-m", "membench", *command(name, asked.output)], check=False).returncode
        if code:
            failed.append(f"{name} ended with {code}")
        if code == _INTERRUPTED:
            break
    if failed:
        raise SystemExit(f"benchmarks.all_scenarios: {'; '.join(failed)}")


_INTERRUPTED = 130


if __name__ == "__main__":
    main()
