"""``membench run``: measure scenarios."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from membench.cli import exit_codes
from membench.cli.options import AsJson, Device, Only, Output, Overrides, Scenarios


class Format(StrEnum):
    """How the table is written."""

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
    table: Annotated[Format, typer.Option("--format", help="How the table is written.")] = Format.RICH,
    as_json: AsJson = False,
) -> None:
    """Measure scenarios: plan, check against the reference, time, write one result file each.

    Exit codes: 0 measured, 2 bad input, 5 nothing was measured, 130 interrupted (what was finished is kept).
    """
    import sys

    from membench.cli.device_option import checked_device
    from membench.cli.standard_output import StandardOutput
    from membench.plan import check_budgets
    from membench.records import strict_json
    from membench.scenario import load_scenario
    from membench.session import run_scenario
    from membench.tables.render import Table, print_tables, to_csv, to_markdown
    from membench.tables.results import result_tables

    checked_device(device)
    loaded = [load_scenario(name, overrides or ()) for name in scenarios]
    for scenario in loaded:  # all of them before the first is measured
        check_budgets(scenario)
    finished, shown = [], StandardOutput()

    def show(tables: list[Table]) -> None:
        if table is Format.RICH:
            print_tables(tables)
        else:
            render = to_markdown if table is Format.MARKDOWN else to_csv
            print("\n".join(render(each) for each in tables))

    for scenario in loaded:
        done = run_scenario(scenario, device, output, resume=resume, only=only or ())
        finished.append(done)
        if not as_json:
            tables = result_tables(done.result)
            shown.take(lambda tables=tables: show(tables))
            print(f"result file: {done.path}", file=sys.stderr)
        if done.interrupted:
            break
    if as_json:
        results = [{"path": str(d.path), "result": d.result.model_dump(mode="json")} for d in finished]
        shown.take(lambda: print(strict_json({"results": results})))
    shown.done(f"results are in {', '.join(str(done.path) for done in finished)}")
    if any(done.interrupted for done in finished):
        raise typer.Exit(exit_codes.INTERRUPTED)
    if not any(done.measured for done in finished):
        raise typer.Exit(exit_codes.HARNESS)
