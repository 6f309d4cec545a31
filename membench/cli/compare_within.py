"""``membench compare --within``: compares the layers of one run with each other."""

import typer

from membench.errors import UsageError, blaming
from membench.gate.as_json import metric_json
from membench.gate.outcome import NOTHING_COMPARABLE
from membench.gate.result_set import LoadedResult
from membench.gate.thresholds import Thresholds
from membench.gate.within import WithinRow, compare_within
from membench.results.records import strict_json
from membench.tables.gate_within import within_table
from membench.tables.render import print_tables


def check_alone(**others: object) -> None:
    """Raises UsageError if an option of the gate was given: --within does not compare files."""
    for name, value in others.items():
        if value:
            option = {"every": "all"}.get(name, name)
            raise UsageError("does not go with --within, which compares the layers of one run", source=f"--{option}")


def show_within(results: list[LoadedResult], reference: str, thresholds: Thresholds, *, as_json: bool) -> None:
    """A table (or JSON) for each file; exit code 4 if no file has two layers that can be compared.

    Raises:
        UsageError: a file was trained, or has no such layer.
    """
    found: list[tuple[LoadedResult, list[WithinRow]]] = []
    for each in results:
        if any(record.case.training for record in each.result.cases):
            problem = "was trained, and --within compares times; membench report tells its arms apart by their seeds"
            raise UsageError(problem, source=str(each.path))
        with blaming(f"{each.path}: --reference"):
            found.append((each, compare_within(each.result, reference, thresholds)))
    if as_json:
        content = [
            {
                "file": str(each.path),
                "rows": [
                    {"group": r.group, "arm": r.arm, "reference": r.reference, **metric_json(r.found)} for r in rows
                ],
            }
            for each, rows in found
        ]
        print(strict_json({"within": content}))
    else:
        print_tables(within_table(each, rows) for each, rows in found)
    if not any(rows for _, rows in found):
        raise typer.Exit(NOTHING_COMPARABLE)
