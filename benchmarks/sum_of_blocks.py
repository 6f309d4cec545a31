"""Is a model the sum of its blocks? Each case is measured whole and in parts, one right after the other.

    python -m benchmarks.sum_of_blocks FOLDER [--scenario FILE] [--set KEY=VALUE …] [--runs 5] [--json FILE]

Each of the runs measures every case of the scenario in turn: whole, and with the model in parts (``fit.in_parts``), a
few seconds apart, since a machine is not as fast some minutes later; every other time the parts come first. What is
there already in FOLDER is not measured again. For each case the ratio of the two steps, sum over whole, is the median
over the runs of their ratios.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.writing import add_json_option, write_found
from membench.errors import UsageError
from membench.machine.provenance import probe_environment
from membench.planning.planner import solve_budgets
from membench.results.ranking import is_part, mode_name, step_ms, tokens_name
from membench.results.records import Record, read_result
from membench.running.journal import check_folder
from membench.running.run import plan_here, run_scenario
from membench.scenario.scenario import load_scenario

WAYS = ("whole", "parts")
IN_PARTS = "fit.in_parts=true"
SCENARIO = Path(__file__).with_suffix(".yaml")


def measure(folder: Path, name: str, overrides: list[str], runs: int) -> None:
    """Make what is missing of so many pairs of files a case."""
    scenarios = {"whole": load_scenario(name, overrides), "parts": load_scenario(name, [*overrides, IN_PARTS])}
    solved = {way: solve_budgets(scenario) for way, scenario in scenarios.items()}
    cases = plan_here(scenarios["whole"], probe_environment("cpu"), solved=solved["whole"]).runnable
    for number in range(1, runs + 1):
        for planned in cases:
            for way in WAYS if number % 2 else reversed(WAYS):
                path = _path(folder, number, planned.id, way)
                if path.exists():
                    continue
                print(f"run {number} of {runs}: {planned.case.arm} {planned.case.mode}, {way}", file=sys.stderr)
                scenario, made = scenarios[way], folder / "made"
                done = run_scenario(scenario, solved[way], "cpu", made, resume=False, only=[planned.id])
                if done.interrupted or done.path is None or not done.measured:
                    raise UsageError(f"{path} was not made")
                done.path.rename(path)


def ratios(folder: Path, runs: int) -> dict[str, list[float]]:
    """By case the sum of blocks over the whole, a number for each pair of files."""
    found: dict[str, list[float]] = {}
    for number in range(1, runs + 1):
        for path in sorted(folder.glob(_path(folder, number, "*", "whole").name)):
            (whole,) = _models(path)
            (parts,) = _models(_path(folder, number, whole.case.id, "parts"))
            name = f"{whole.case.arm} {mode_name(whole)}, {tokens_name(whole)}"
            found.setdefault(name, []).append(_step_ms(parts) / _step_ms(whole))
    return dict(sorted(found.items()))


def _path(folder: Path, number: int, case: str, way: str) -> Path:
    return folder / f"{number}_{case}_{way}.json"


def _models(path: Path) -> list[Record]:
    return [record for record in read_result(path).cases if not is_part(record)]


def _step_ms(record: Record) -> float:
    step = step_ms(record)
    if step is None:
        raise UsageError(f"{record.case.arm} {record.case.mode} was not measured: {record.status}")
    return step


def judged(folder: Path, runs: int) -> dict[str, Any]:
    """What is kept: every case's ratio and those of its runs, and how far the worst is from one."""
    pairs = ratios(folder, runs)
    of_cases = {name: statistics.median(values) for name, values in pairs.items()}
    files = [read_result(path) for path in folder.glob(_path(folder, 1, "*", "whole").name)]
    first = min(files, key=lambda result: result.run.started)
    return {
        "benchmark": "sum_of_blocks",
        "scenario": first.run.scenario,
        "overrides": first.run.overrides,
        "started": first.run.started,
        "git_sha": first.run.git_sha,
        "environment": first.environment,
        "runs": runs,
        "sum_over_whole": of_cases,
        "ratios_of_runs": pairs,
        "furthest_from_one": max(abs(ratio - 1) for ratio in of_cases.values()),
    }


def main() -> None:
    """Measure what is missing, then judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenario", default=str(SCENARIO))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=int, default=5)
    add_json_option(parser)
    options = parser.parse_args()
    try:
        check_folder(options.folder, "FOLDER")
        measure(options.folder, options.scenario, options.overrides, options.runs)
        found = judged(options.folder, options.runs)
    except UsageError as error:
        parser.error(str(error))
    for case, ratio in found["sum_over_whole"].items():
        print(f"{case:60} {ratio:.3f}")
    print(f"furthest from one: {found['furthest_from_one']:.1%}")
    if options.json is not None:
        write_found(found, options.json)


if __name__ == "__main__":
    main()
