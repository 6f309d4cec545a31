"""Is a model the sum of its blocks? The same models measured whole and in parts, in turn.

    python -m benchmarks.sum_of_blocks FOLDER [--scenario FILE] [--set KEY=VALUE …] [--runs 3] [--json FILE]

Each run measures the scenario twice: whole, and with every model in parts (``fit.in_parts``). What is there already in
FOLDER is not measured again. For each case the ratio of the two steps, sum over whole, is the median over the runs of
their ratios.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.writing import add_json_option, write_found
from membench.errors import UsageError
from membench.planning.planner import solve_budgets
from membench.results.ranking import is_part, mode_name, step_ms, tokens_name
from membench.results.records import Record, ResultFile, read_result
from membench.running.journal import check_folder
from membench.running.run import run_scenario
from membench.scenario.scenario import load_scenario

WAYS = ("whole", "parts")
IN_PARTS = "fit.in_parts=true"
SCENARIO = Path(__file__).with_suffix(".yaml")


def measure(folder: Path, name: str, overrides: list[str], runs: int) -> None:
    """Make what is missing of so many pairs of runs."""
    scenarios = {"whole": load_scenario(name, overrides), "parts": load_scenario(name, [*overrides, IN_PARTS])}
    for number in range(1, runs + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            path = folder / f"{way}_{number}.json"
            if path.exists():
                continue
            print(path, file=sys.stderr)
            scenario = scenarios[way]
            done = run_scenario(scenario, solve_budgets(scenario), "cpu", folder / "made", resume=False)
            if done.interrupted or done.path is None or not done.measured:
                raise UsageError(f"{path} was not made")
            done.path.rename(path)


def ratios(folder: Path, runs: int) -> dict[str, list[float]]:
    """By case the sum of blocks over the whole, a number for each pair of runs."""
    found: dict[str, list[float]] = {}
    for number in range(1, runs + 1):
        whole, parts = (steps(read_result(folder / f"{way}_{number}.json")) for way in WAYS)
        for case in whole.keys() & parts.keys():
            found.setdefault(case, []).append(parts[case] / whole[case])
    return dict(sorted(found.items()))


def steps(result: ResultFile) -> dict[str, float]:
    """Milliseconds of every model's step."""
    return {_name(r): step for r in result.cases if not is_part(r) and (step := step_ms(r))}


def _name(record: Record) -> str:
    return f"{record.case.arm} {mode_name(record)}, {tokens_name(record)}"


def judged(folder: Path, runs: int) -> dict[str, Any]:
    """What is kept: every case's ratio, and how far the worst is from one."""
    of_cases = {name: statistics.median(values) for name, values in ratios(folder, runs).items()}
    first = read_result(folder / "whole_1.json")
    return {
        "benchmark": "sum_of_blocks",
        "scenario": first.run.scenario,
        "overrides": first.run.overrides,
        "started": first.run.started,
        "git_sha": first.run.git_sha,
        "environment": first.environment,
        "runs": runs,
        "sum_over_whole": of_cases,
        "furthest_from_one": max(abs(ratio - 1) for ratio in of_cases.values()),
    }


def main() -> None:
    """Measure what is missing, then judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenario", default=str(SCENARIO))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=int, default=3)
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
