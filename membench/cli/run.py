"""``membench run``: measure scenarios."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from membench.cli import exit_codes
from membench.cli.options import AsJson, Device, Only, Output, Overrides, Ranks, Scenarios

if TYPE_CHECKING:
    from collections.abc import Iterable

    from membench.planning.solved_arms import SolvedArm
    from membench.results.records import ResultFile
    from membench.running.run import Finished
    from membench.scenario.scenario import Scenario


class Format(StrEnum):
    """Tables to read, or every case in one table: on standard output, or (Parquet) beside the result file."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    PARQUET = "parquet"


def run(
    scenarios: Scenarios,
    overrides: Overrides = None,
    only: Only = None,
    device: Device = "auto",
    output: Output = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Measure only what an interrupted run lacks.")] = False,
    nproc: Ranks = None,
    table: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Tables to read; or a row a case, raw values: csv on standard output, parquet beside the result file.",
        ),
    ] = Format.RICH,
    as_json: AsJson = False,
) -> None:
    """Measure scenarios: plan, check against the reference, time, write one result file each.

    On many hosts, where ranks share every layer: torchrun --nnodes N --nproc-per-node P … -m membench run SCENARIO.

    Exit codes: 0 measured, 2 bad input, 5 nothing was measured, or a rank was lost, 130 interrupted (what was finished
    is kept).
    """
    from membench.cli.device_option import checked_device
    from membench.cli.launch import ended_with_rank_0, sharing
    from membench.cli.output_option import checked_folder
    from membench.planning.planner import solve_budgets
    from membench.scenario.scenario import load_scenario
    from membench.tables.frame_file import check_parquet

    checked_device(device)
    launch = sharing(nproc)
    folder = checked_folder(output)
    if table is Format.PARQUET:
        check_parquet("--format parquet")

    def load() -> "list[Scenario]":
        return [load_scenario(name, overrides or ()) for name in scenarios]

    if launch.follows:
        raise typer.Exit(ended_with_rank_0(launch, load, device, only))
    loaded = load()
    solved = [solve_budgets(scenario, launch.ranks) for scenario in loaded]  # all of them before the first is measured
    if tasks := [point.task for scenario in loaded for point in scenario.points if point.task is not None]:
        from membench.training.data_files.check import check_files

        check_files(tasks)
    with launch.met(loaded, device, only) as ranks:
        how = {"device": device, "output": folder, "resume": resume, "only": only or (), "ranks": ranks}
        _measure(zip(loaded, solved, strict=True), how, table, as_json=as_json)


def _measure(
    solved: "Iterable[tuple[Scenario, list[dict[str, SolvedArm]]]]",
    how: dict[str, Any],
    table: Format,
    *,
    as_json: bool,
) -> None:
    """One after the other, ``how`` ``run_scenario`` takes it, each shown as soon as it is measured.

    Raises:
        typer.Exit: not all was measured.
    """
    import sys

    from membench.cli.standard_output import StandardOutput
    from membench.results.records import strict_json
    from membench.running.run import Finished, run_scenario
    from membench.training.runs.runner import TrainingRunner

    finished: list[Finished] = []
    shown, unwritten = StandardOutput(), []
    try:
        for scenario, arms in solved:
            by: dict[str, Any] = {} if scenario.level != "training" else {"measuring": TrainingRunner}
            done = run_scenario(scenario, arms, **how, **by)
            finished.append(done)
            if not as_json:
                shown.take(lambda result=done.result: _show(result, table))
                print(f"result file: {done.path}", file=sys.stderr)
            if table is Format.PARQUET:
                unwritten += _write_parquet(done)
            if done.interrupted:
                break
    finally:  # what was measured before another scenario failed is shown too
        if finished and as_json:
            found = [{"path": str(d.path), "result": d.result.model_dump(mode="json")} for d in finished]
            shown.take(lambda: print(strict_json({"results": found})))
        elif finished and table is Format.CSV:
            shown.take(lambda: print(_csv(finished), end=""))
    shown.done(f"results are in {', '.join(str(done.path) for done in finished)}")
    if unwritten:
        raise OSError("; ".join(unwritten))
    if lost := next((done.lost for done in finished if done.lost), None):
        how["ranks"].over(exit_codes.HARNESS, lost)
        raise typer.Exit(exit_codes.HARNESS)
    if any(done.interrupted for done in finished):
        raise typer.Exit(exit_codes.INTERRUPTED)
    if not any(done.measured for done in finished):
        raise typer.Exit(exit_codes.HARNESS)


def _show(result: "ResultFile", table: Format) -> None:
    """The tables of a run as soon as it is done; CSV waits for the columns of them all."""
    from membench.tables.render import print_tables, to_markdown
    from membench.tables.results import result_tables

    if table is Format.RICH:
        print_tables(result_tables(result))
    elif table is Format.MARKDOWN:
        print("\n".join(map(to_markdown, result_tables(result))))


def _csv(finished: "list[Finished]") -> str:
    """Every case of all scenarios under one header."""
    from membench.results.frame import results_frame
    from membench.tables.frame_file import csv_text

    return csv_text(results_frame((str(done.path) if done.path else None, done.result) for done in finished))


def _write_parquet(done: "Finished") -> list[str]:
    """A run's cases beside its result file. Why not, where it cannot be: what is measured next is not lost with it."""
    import sys

    from membench.files import write_whole
    from membench.results.frame import results_frame
    from membench.tables.frame_file import parquet_bytes

    if done.path is None:
        return [f"{done.result.run.scenario} has no result file, so no table lies beside it"]
    path = done.path.with_suffix(".parquet")
    try:
        write_whole(path, parquet_bytes(results_frame([(str(done.path), done.result)])))
    except OSError as error:
        return [f"{path} cannot be written ({error.strerror or error}); membench report {done.path} --table makes it"]
    print(f"table: {path}", file=sys.stderr)
    return []
