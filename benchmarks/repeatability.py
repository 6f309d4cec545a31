"""Does a second run say what the first said? Several runs of one scenario held against each other.

    python -m benchmarks.repeatability --scenario iso_flop_8b --runs 5 [--loaded]
    python -m benchmarks.repeatability build/repeatability/iso_flop_8b_quiet/*.json [--loaded]

The first form measures: runs that are there already count, so what was interrupted goes on. ``--loaded``: another
process multiplies matrices on all cores about a third of the time. The second form judges runs that were made before,
five ``make run`` say; there ``--loaded`` only says how they were made.

For each case: its medians' spread over the runs; how often the difference of two runs lies inside the interval that
both runs' intervals state for it; how often two arms that one run tells apart stand the other way round in another;
how much was flagged as disturbed, which excuses a reversal and is counted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alike import check_alike
from benchmarks.repeatability_parts.judging import judge_runs
from benchmarks.writing import write_found
from membench.cli.exit_codes import INTERRUPTED
from membench.errors import UsageError
from membench.gate.result_set import LoadedResult
from membench.json_values import mapping
from membench.machine.provenance import result_stem
from membench.results.records import read_result
from membench.running.journal import check_folder

_KEPT = Path("build/repeatability")


def as_json(results: Sequence[LoadedResult], condition: str) -> dict[str, Any]:
    """What is kept: which runs, and what they say of each other.

    Raises:
        UsageError: they are no runs of one thing.
    """
    check_alike(results)
    first = results[0].result
    return {
        "benchmark": "repeatability",
        "condition": condition,
        "scenario": first.run.scenario,
        "started": first.run.started,
        "finished": results[-1].result.run.finished,
        "git_sha": first.run.git_sha,
        "method_version": first.run.method_version,
        "rounds": first.run.rounds,
        "environment": first.environment,
        "runs": [each.name for each in results],
        **judge_runs([each.result for each in results]),
    }


def print_summary(found: dict[str, Any]) -> None:
    """The figures that documents quote."""
    spread, apart, order, noise = (found[name] for name in ("spread", "differences", "order", "disturbance"))
    minutes = ", ".join("-" if each is None else f"{each:.1f}" for each in found["minutes"])
    print(f"{len(found['runs'])} runs of {found['scenario']}, {found['condition']}, minutes: {minutes}")
    print(f"medians within {_times(spread['middle'])} in the middle of cases, {_times(spread['worst'])} at worst")
    print(f"  without disturbed ones {_times(spread['middle_undisturbed'])} and {_times(spread['worst_undisturbed'])}")
    print(
        f"differences inside their intervals: {apart['inside']} of {apart['pairs']} (stated: {found['coverage']:.0%})"
    )
    print(f"arms told apart: {order['told_apart']}, reversed in another run {order['reversed']}", end="")
    print(f" (as surely {order['reversed_and_told_apart']}), excused {order['excused']}")
    print(f"rounds that stay disturbed: {noise['rounds_disturbed']} of {noise['rounds']}", end="")
    print(f"; samples taken again: {noise['samples_taken_again']} beside {noise['samples']}")


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def main() -> None:
    """Measures where a scenario is named, judges, and writes one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="result files of runs that were made before")
    parser.add_argument("--scenario", help="measure this one: a name or a file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--loaded", action="store_true")
    parser.add_argument("--keep", type=Path, default=_KEPT, help="folder for the runs that are measured")
    parser.add_argument("--output", type=Path, default=Path("results"))
    asked = parser.parse_args()
    if asked.runs < 2:
        parser.error(f"--runs {asked.runs}: runs are compared with each other, two or more")
    if bool(asked.files) == bool(asked.scenario):
        parser.error("name result files, or a scenario to measure with --scenario")
    condition = "loaded" if asked.loaded else "quiet"
    try:
        check_folder(asked.output)  # before hours are measured
        paths = asked.files or _measured(asked, condition)
        results = [LoadedResult(path, read_result(path)) for path in paths]
        results.sort(key=lambda each: each.result.run.started)
        found = as_json(results, condition)
        print_summary(found)
        print(_written(found, asked.output))
    except UsageError as error:
        raise SystemExit(f"benchmarks.repeatability: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _written(found: dict[str, Any], folder: Path) -> Path:
    """The file in the folder that keeps what was found."""
    device = mapping(found, "environment", "device")
    stem = result_stem(f"repeatability_{found['condition']}", device, found["started"], found["git_sha"])
    path = folder / f"{stem}.json"
    write_found(found, path, option="--output")
    return path


def _measured(asked: argparse.Namespace, condition: str) -> list[Path]:
    from benchmarks.repeatability_parts.running import make_runs  # imports torch, which judging does not need

    folder = asked.keep / f"{Path(asked.scenario).stem}_{condition}"
    return make_runs(asked.scenario, folder, asked.runs, loaded=asked.loaded)


if __name__ == "__main__":
    main()
