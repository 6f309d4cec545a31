"""``membench run``: measure scenarios."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from membench.cli import exit_codes
from membench.cli.options import AsJson, Device, Only, Output, Overrides, Scenarios

if TYPE_CHECKING:
    from membench.results.records import ResultFile


class Format(StrEnum):
    """What is written on standard output: tables to read, or every case in one table."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"


def run(
    scenarios: Scenarios,
    overrides: Overrides = None,
    only: Only = None,
    device: Device = "auto",
    output: Output = Path("results"),
    resume: Annotated[bool, typer.Option("--resume", help="Measure only what an interrupted run lacks.")] = False,
    table: Annotated[
        Format, typer.Option("--format", help="Tables to read; or csv: a row a case, raw values.")
    ] = Format.RICH,
    as_json: AsJson = False,
) -> None:
    """Measure scenarios: plan, check against the reference, time, write one result file each.

    Exit codes: 0 measured, 2 bad input, 5 nothing was measured, 130 interrupted (what was finished is kept).
    """
    import sys

    from membench.cli.device_option import checked_device
    from membench.cli.output_option import checked_folder
    from membench.cli.standard_output import StandardOutput
    from membench.planning.plan import solve_budgets
    from membench.results.records import strict_json
    from membench.running.run import Finished, run_scenario
    from membench.scenario.scenario import load_scenario
    from membench.tables.cases import raw_table
    from membench.tables.render import to_csv

    checked_device(device)
    folder = checked_folder(output)
    loaded = [load_scenario(name, overrides or ()) for name in scenarios]
    solved = [solve_budgets(scenario) for scenario in loaded]  # all of them before the first is measured
    finished: list[Finished] = []
    shown = StandardOutput()
    try:
        for scenario, arms in zip(loaded, solved, strict=True):
            done = run_scenario(scenario, arms, device, folder, resume=resume, only=only or ())
            finished.append(done)
            if not as_json:
                shown.take(lambda result=done.result: _show(result, table))
                print(f"result file: {done.path}", file=sys.stderr)
            if done.interrupted:
                break
    finally:  # what was measured before another scenario failed is shown too
        if finished and as_json:
            found = [{"path": str(d.path), "result": d.result.model_dump(mode="json")} for d in finished]
            shown.take(lambda: print(strict_json({"results": found})))
        elif finished and table is Format.CSV:
            shown.take(lambda: print(to_csv(raw_table(done.result for done in finished)), end=""))
    shown.done(f"results are in {', '.join(str(done.path) for done in finished)}")
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
