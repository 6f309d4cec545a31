"""``membench baseline``: which file `compare` compares new results with."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from membench.cli import exit_codes
from membench.cli.options import AsJson

baseline = typer.Typer(
    help="Set or show the file that `membench compare` compares new results with.", add_completion=False
)


@baseline.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Without a command, shows the help on standard error: it is an error."""
    if context.invoked_subcommand is None:
        with redirect_stdout(sys.stderr):
            print(context.get_help())
        raise typer.Exit(exit_codes.USAGE)


@baseline.command("set")
def set_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A result file. It is not moved.")],
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why; stored in baselines.yaml.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make FILE the baseline of its device and scenario. Writes baselines.yaml in FILE's folder.

    Exit codes: 0 set, 2 bad input.
    """
    from membench.errors import UsageError
    from membench.gate.baselines import FILE_NAME, set_baseline
    from membench.results.records import read_result, strict_json

    result = read_result(file)
    if not any(record.status == "ok" for record in result.cases):
        raise UsageError("has no case that was measured, so nothing could be compared with it", source=str(file))
    if result.run.pair or result.run.interrupted or result.run.only:
        what = "a side of an ab" if result.run.pair else "not a whole run"
        raise UsageError(f"is {what}; a baseline must be a complete result of membench run", source=str(file))
    if result.run.git_dirty:
        print(f"membench: {file} was measured with changes that are in no commit", file=sys.stderr)
    found, before = set_baseline(file, result, reason)
    if as_json:
        print(
            strict_json({"set": found.model_dump(mode="json"), "instead_of": before and before.model_dump(mode="json")})
        )
        return
    instead = f" instead of {before.file}" if before and before.file != found.file else ""
    print(f"{file.parent / FILE_NAME}: {found.scenario} on {found.device}: {found.file}{instead}")


@baseline.command("show")
def show_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the result files.")] = Path("results"),
    as_json: AsJson = False,
) -> None:
    """List the baselines of a folder.

    Exit codes: 0 listed, 2 bad input.
    """
    from membench.errors import one_line
    from membench.gate.baselines import read_baselines
    from membench.results.records import strict_json
    from membench.tables.render import print_tables
    from membench.tables.table import Column, Table

    known = read_baselines(folder)
    if as_json:
        print(strict_json(known.model_dump(mode="json")))
        return
    priorities = {"scenario": 1, "device": 2, "file": 1, "set_at": 3, "reason": 4}
    rows = [[getattr(each, name) for name in priorities] for each in known.baselines]
    columns = [Column(name, right=False, priority=priority) for name, priority in priorities.items()]
    none = "" if rows else "No baseline is set yet. To set one: membench baseline set FILE."
    print_tables([Table(one_line(f"Baselines in {folder}"), none, columns, rows)])
