"""Measures every shipped scenario that has no recorded answer here: ``make results``.

    python -m benchmarks.all_scenarios [--force] [--output results]

A scenario is passed over if the folder holds a whole run of it, of at least three rounds, of this version of the
method, that asked the same, on this machine. What was interrupted goes on, or starts anew where it may not; what fails
is told at the end, and the next one is measured all the same.
"""

import argparse
from pathlib import Path

from benchmarks.documents.recorded import answers_scenario, read_all
from benchmarks.going_on import run_membench
from benchmarks.standings import MIN_ROUNDS
from membench.cli.exit_codes import INTERRUPTED
from membench.errors import UsageError
from membench.machine.identity import Machine
from membench.machine.provenance import probe_environment
from membench.results.records import ResultFile
from membench.running.journal import check_folder
from membench.scenario.scenario import Scenario, load_scenario
from membench.scenario.shipped import list_scenarios


def missing(folder: Path, machine: Machine) -> list[str]:
    """The shipped scenarios that nothing in the folder answers for this machine."""
    runs = [each.result for each in read_all(sorted(folder.glob("*.json")))]
    every = [load_scenario(name) for name, _ in list_scenarios()]
    return [each.name for each in every if not any(answers(run, each, machine) for run in runs)]


def answers(result: ResultFile, scenario: Scenario, machine: Machine) -> bool:
    """Whether a run answers this scenario as it is now, on this machine."""
    return answers_scenario(result, scenario) and machine.difference(Machine.of(result.environment)) is None


def runs_on(scenario: Scenario, device: str) -> bool:
    """Whether a scenario may run on this kind of device; some are for a GPU alone."""
    return scenario.device in ("auto", device)


def command(name: str, folder: Path) -> list[str]:
    """The words that measure a scenario in enough rounds."""
    words = ["run", name, "--output", str(folder)]
    scenario = load_scenario(name)
    if scenario.nproc:
        words += ["--nproc", str(scenario.nproc)]
    if scenario.measure.rounds < MIN_ROUNDS:
        words += ["--set", f"measure.rounds={MIN_ROUNDS}"]
    return words


def main() -> None:
    """Measures one scenario after the other; exit code 1 if one of them failed, 130 if it was interrupted itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="measure also what is recorded already")
    parser.add_argument("--output", type=Path, default=Path("results"))
    asked = parser.parse_args()
    every = [name for name, _ in list_scenarios()]
    try:
        check_folder(asked.output)
        environment = probe_environment("auto")
        wanted = every if asked.force else missing(asked.output, Machine.of(environment))
        wanted = [name for name in wanted if runs_on(load_scenario(name), environment["device"]["type"])]
    except UsageError as error:
        raise SystemExit(f"benchmarks.all_scenarios: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    print(f"to measure: {', '.join(wanted) or 'nothing'}; recorded: {len(every) - len(wanted)} of {len(every)}")
    failed = []
    for name in wanted:
        try:
            code = run_membench(command(name, asked.output), asked.output, name)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        if code:
            failed.append(f"{name} ended with {code}")
        if code == INTERRUPTED:
            break
    if failed:
        raise SystemExit(f"benchmarks.all_scenarios: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
