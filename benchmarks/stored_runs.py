"""Can two stored runs decide? Runs of ``gate`` as it is and slowed by real work, all pairs judged as compare does.

    python -m benchmarks.stored_runs record FOLDER --variants base slow10 --runs 4
    python -m benchmarks.stored_runs judge FOLDER [--json FILE]

``record`` makes what is missing of ``base_1.json``, ``slow10_1.json``, ``base_2.json`` …: a run at a time, the
variants by turns, so it can be stopped and called again. A run is ``membench run gate``; in a slowed one each process
does more work in every call, sized in that process to 5, 10 or 20 % of the call. Runs of base have the same worker
without work.

``judge`` holds every pair of runs of base against each other, in the order in which they were made, and every run of
base against every slowed one. Each pair is judged twice from the same files: by the ratios to the pacer, and in
milliseconds, as if no pacer had been timed. By ratios it is also judged with other margins than the gate's, apart for
runs that were made within an hour and for those of different hours: a machine shared with others is another one later.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import combinations, product
from pathlib import Path
from typing import Any

from benchmarks.alike import check_alike
from benchmarks.slowed_worker import SHARE
from benchmarks.standings import seconds_of
from benchmarks.writing import add_json_option, write_found
from membench.cli.exit_codes import INTERRUPTED
from membench.errors import UsageError
from membench.gate.cases import CaseComparison
from membench.gate.comparison import compare_files
from membench.gate.metrics import TIMED
from membench.gate.pacing import ratios_by_round
from membench.gate.result_set import LoadedResult
from membench.gate.rounds import by_round
from membench.gate.thresholds import Threshold, Thresholds
from membench.gate.verdicts import MetricVerdict, Verdict
from membench.planning.planner import solve_budgets
from membench.results.records import Record, read_result
from membench.running.journal import check_folder
from membench.running.run import run_scenario
from membench.running.runner import Runner
from membench.scenario.scenario import Scenario, load_scenario
from membench.tables.numbers import share

SLOWDOWNS = {"base": 0.0, "slow5": 0.05, "slow10": 0.10, "slow20": 0.20}
_LATENCY = TIMED[0]
_BY = ("ratio", "milliseconds")
_MARGINS = (0.03, 0.05, 0.07)  # the first is the gate's own
Pair = tuple[LoadedResult, LoadedResult]


def record(folder: Path, variants: list[str], runs: int, overrides: list[str]) -> None:
    """Make what is missing of so many runs of each variant.

    Raises:
        UsageError: an override is of no use, the folder cannot be written, or nothing was measured.
        KeyboardInterrupt: a run was interrupted; those before it are kept.
    """
    check_folder(folder, "FOLDER")
    scenario = load_scenario("gate", overrides)
    with _slowed_workers():
        _record(folder, variants, runs, scenario)


@contextmanager
def _slowed_workers() -> Iterator[None]:
    """Runs in here have the worker that does more work in every call."""
    worker, Runner.worker = Runner.worker, "benchmarks.slowed_worker"
    try:
        yield
    finally:
        Runner.worker = worker


def _record(folder: Path, variants: list[str], runs: int, scenario: Scenario) -> None:
    for number, variant in product(range(1, runs + 1), variants):
        path = folder / f"{variant}_{number}.json"
        if path.exists():
            continue
        os.environ[SHARE] = str(SLOWDOWNS[variant])
        print(path, file=sys.stderr)
        done = run_scenario(scenario, solve_budgets(scenario), "cpu", folder / "made", resume=False)
        if done.interrupted:
            raise KeyboardInterrupt
        if done.path is None:
            raise UsageError(f"{path} was not made: its result could not be written")
        if not done.measured:
            raise UsageError(f"{path} was not made: nothing was measured, as {done.path} says")
        done.path.rename(path)


def load(folder: Path) -> dict[str, list[LoadedResult]]:
    """The runs of each variant, in the order in which they were made.

    Raises:
        UsageError: a file cannot be read.
    """
    found = {name: [LoadedResult(p, read_result(p)) for p in folder.glob(f"{name}_*.json")] for name in SLOWDOWNS}
    return {name: sorted(runs, key=lambda each: each.result.run.started) for name, runs in found.items() if runs}


def in_milliseconds(run: LoadedResult) -> LoadedResult:
    """The run as if no pacer had been timed."""

    def without(case: Record) -> Record:
        return case.model_copy(update={"rounds": [r.model_copy(update={"pacer": {}}) for r in case.rounds]})

    return LoadedResult(run.path, run.result.model_copy(update={"cases": [*map(without, run.result.cases)]}))


def pairs(runs: dict[str, list[LoadedResult]], variant: str) -> list[Pair]:
    """Every pair of base's runs, the earlier one first, or every run of base with every slowed one."""
    return [*combinations(runs["base"], 2)] if variant == "base" else [*product(runs["base"], runs[variant])]


def verdicts(of: list[Pair], by: str, margin: float | None = None) -> Iterator[tuple[CaseComparison, MetricVerdict]]:
    """What compare says of every case's latency in every pair, with the gate's margin or another."""
    thresholds = Thresholds(metrics={} if margin is None else {_LATENCY.name: Threshold(margin=margin)})
    for pair in of:
        base, head = map(in_milliseconds, pair) if by == "milliseconds" else pair
        for case in compare_files(base, head, thresholds).cases:
            yield from ((case, metric) for metric in case.metrics if metric.metric == _LATENCY.name)


def shares(of: list[Pair], by: str) -> dict[str, Any]:
    """Shares of all (pair, case), and of each case's pairs, that were called slow, fast, the same or neither."""
    found = [(case.label, metric) for case, metric in verdicts(of, by)]
    labels = sorted({label for label, _ in found})
    intervals = [metric.estimate for _, metric in found if metric.estimate and metric.estimate.low is not None]
    widths = [e.high - e.low for e in intervals if e.high is not None and e.low is not None]
    return {
        "comparisons": len(found),
        **{v.value.lower(): _share([m for _, m in found], v) for v in _CALLED},
        "effect_median": statistics.median(e.effect for e in intervals) if intervals else None,
        "interval_half_width_median": statistics.median(widths) / 2 if widths else None,
        "slow_by_case": {each: _share([m for label, m in found if label == each], Verdict.SLOW) for each in labels},
    }


def slow_by_margin(of: list[Pair]) -> dict[str, dict[str, Any]]:
    """Share of all (pair, case) that are called slower by ratios, for each margin, of runs near and far in time."""
    near = [pair for pair in of if _hours_apart(pair) <= 1]
    far = [pair for pair in of if _hours_apart(pair) > 1]
    return {when: _by_margin(those) for when, those in (("within an hour", near), ("hours apart", far)) if those}


def _by_margin(of: list[Pair]) -> dict[str, Any]:
    found = {f"{margin:g}": [metric for _, metric in verdicts(of, "ratio", margin)] for margin in _MARGINS}
    return {
        "comparisons": len(found[f"{_MARGINS[0]:g}"]),
        "slow": {margin: _share(metrics, Verdict.SLOW) for margin, metrics in found.items()},
    }


def _hours_apart(pair: Pair) -> float:
    first, second = (datetime.fromisoformat(each.result.run.started) for each in pair)
    return abs((second - first).total_seconds()) / 3600


_CALLED = (Verdict.SLOW, Verdict.FAST, Verdict.SAME, Verdict.INCONCLUSIVE, Verdict.INCOMPARABLE)


def _share(found: list[MetricVerdict], verdict: Verdict) -> float | None:
    return sum(metric.verdict is verdict for metric in found) / len(found) if found else None


def spread(runs: list[LoadedResult], by: str) -> dict[str, float | None]:
    """Medians over cases of standard deviations, ln: of rounds within a run, and of the medians of runs.

    Of the cases that every run has in two rounds or more; None without such.
    """
    records = [{case.id: case for case in run.result.cases} for run in runs]
    within, between = [], []
    for id_ in records[0]:
        logs = [[*map(math.log, _values(cases[id_], by))] for cases in records if id_ in cases]
        if len(logs) == len(runs) and min(map(len, logs)) > 1:
            within.append(statistics.fmean(statistics.stdev(each) for each in logs))
            between.append(statistics.stdev(map(statistics.median, logs)))
    return {"of_rounds_within_a_run": _median(within), "of_medians_between_runs": _median(between)}


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _values(case: Record, by: str) -> list[float]:
    return [*(ratios_by_round(case) if by == "ratio" else by_round(case, _LATENCY)).values()]


def judge(folder: Path) -> dict[str, Any]:
    """Everything.

    Raises:
        UsageError: there are fewer than two runs of base, a file cannot be read, or they are no runs of one thing.
    """
    runs = load(folder)
    if len(runs.get("base", [])) < 2:
        raise UsageError(f"{folder} holds fewer than two runs base_1.json, base_2.json …: record them first")
    every = [run for of in runs.values() for run in of]
    check_alike(every)
    first = runs["base"][0].result
    return {
        "benchmark": "stored_runs",
        "started": min(run.result.run.started for run in every),
        "finished": max((run.result.run.finished for run in every if run.result.run.finished), default=None),
        "git_sha": first.run.git_sha,
        "environment": first.environment,
        "rounds": first.run.rounds,
        "scenario_text": first.run.scenario_text,
        "overrides": first.run.overrides,
        "runs": {name: len(of) for name, of in runs.items()},
        "run_seconds_median": _median([s for run in every if (s := seconds_of(run.result.run)) is not None]),
        "slowdowns_asked": {name: SLOWDOWNS[name] for name in runs},
        "spread": {by: spread(runs["base"], by) for by in _BY},
        "verdicts": {name: {by: shares(pairs(runs, name), by) for by in _BY} for name in runs},
        "slow_by_margin": {name: slow_by_margin(pairs(runs, name)) for name in runs},
    }


def show(found: dict[str, Any]) -> None:
    """The shares as a table, the spread in a line each."""
    seconds = found["run_seconds_median"]
    each_s = "" if seconds is None else f", {seconds:.0f} s each"
    print(f"{found['runs']} runs of {found['rounds']} rounds{each_s}")
    print(f"{'':8} {'judged by':13} {'n':>4} {'slow':>7} {'fast':>7} {'same':>7} {'open':>7} {'effect':>8} {'+-':>6}")
    for name, by_kind in found["verdicts"].items():
        for by, each in by_kind.items():
            called = " ".join(f"{share(each[v]):>7}" for v in ("slow", "fast", "same", "inconclusive"))
            effect, half = (_percent(each[key]) for key in ("effect_median", "interval_half_width_median"))
            print(f"{name:8} {by:13} {each['comparisons']:4} {called} {effect:>8} {half:>6}")
    for by, each in found["spread"].items():
        within, between = map(_percent, each.values())
        print(f"spread by {by}: of rounds within a run {within}, of medians between runs {between}")
    for name, by_time in found["slow_by_margin"].items():
        for when, each in by_time.items():
            told = ", ".join(f"{share(slow)} by over {share(float(margin))}" for margin, slow in each["slow"].items())
            print(f"{name:8} {when:14} {each['comparisons']:4} slow by ratio: {told}")
    for name, by_kind in found["verdicts"].items():
        in_ms = by_kind["milliseconds"]["slow_by_case"]
        for case, slow in by_kind["ratio"]["slow_by_case"].items():
            print(f"  {name:8} {case:45} slow {share(slow):>7}, in ms {share(in_ms[case]):>7}")


def _percent(log: float | None) -> str:
    return "-" if log is None else f"{100 * math.expm1(log):.1f}%"


def main() -> None:
    """``record`` or ``judge``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "judge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", nargs="+", choices=SLOWDOWNS, default=["base", "slow10"])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], help="of the scenario: measure.rounds=6")
    add_json_option(parser)
    asked = parser.parse_args()
    if asked.runs < 1:
        parser.error(f"--runs {asked.runs}: one or more of each variant are made")
    try:
        if asked.action == "record":
            record(asked.folder, asked.variants, asked.runs, asked.set)
        else:
            _judge_and_show(asked.folder, asked.json)
    except UsageError as error:
        raise SystemExit(f"benchmarks.stored_runs: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _judge_and_show(folder: Path, kept: Path | None) -> None:
    found = judge(folder)
    show(found)
    if kept is not None:
        write_found(found, kept)


if __name__ == "__main__":
    main()
