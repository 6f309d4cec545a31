"""The figures of ``benchmarks.repeatability`` in the method: the newest quiet and loaded series of each scenario."""

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.documents.recorded import device_named, own_form
from benchmarks.documents.tables import markdown_table
from membench.errors import UsageError
from membench.json_values import mapping, text
from membench.machine.identity import Machine
from membench.tables.numbers import ratio, share

_Series = tuple[Path, dict[str, Any]]


def repeatability_part(paths: Iterable[Path]) -> str | None:
    """A table a scenario and machine, a column a condition; None as long as nothing was recorded."""
    newest: dict[str, list[dict[str, _Series]]] = {}
    for path, content in sorted(_series(paths), key=lambda each: each[1]["started"]):
        machine, groups = Machine.of(content["environment"]), newest.setdefault(content["scenario"], [])
        alike = next((of for of in groups if machine.difference(_machine(of)) is None), None)
        if alike is None:
            groups.append(alike := {})
        alike[content["condition"]] = (path, content)
    return "\n\n".join(_table(name, of) for name, groups in sorted(newest.items()) for of in groups) or None


def _series(paths: Iterable[Path]) -> Iterator[_Series]:
    for path in paths:
        content = own_form(path) if path.name.startswith("repeatability_") else {}
        if content.get("benchmark") == "repeatability":
            _check_whole(path, content)
            yield path, content


def _check_whole(path: Path, content: dict[str, Any]) -> None:
    """Refuses a file that lacks what a table shows.

    Raises:
        UsageError: it does.
    """
    wrong = [name for name in ("scenario", "started") if text(content, name) is None]
    wrong += ["environment"] * (not mapping(content, "environment"))
    wrong += ["condition"] * (content.get("condition") not in _CONDITIONS)
    for row, shown in _ROWS.items():
        try:
            shown(content)
        except (KeyError, TypeError, ValueError):
            wrong.append(f"what is shown as '{row}'")
    if wrong:
        problem = f"{wrong[0]} is missing or of another form; a file as benchmarks.repeatability writes it is wanted"
        raise UsageError(problem, source=str(path))


def _machine(of: dict[str, _Series]) -> Machine:
    _, content = next(iter(of.values()))
    return Machine.of(content["environment"])


def _minutes(found: dict[str, Any]) -> str:
    """The median of runs that were made without an interruption."""
    known = [each for each in found["minutes"] if each is not None]
    return f"{statistics.median(known):.1f}" if known else "-"


_CONDITIONS = ("quiet", "loaded")
_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "runs": lambda found: str(len(found["runs"])),
    "minutes a run": _minutes,
    "medians of a case, in the middle of cases": lambda found: ratio(found["spread"]["middle"]),
    "the same, at worst": lambda found: ratio(found["spread"]["worst"]),
    "undisturbed medians, at worst": lambda found: ratio(found["spread"]["worst_undisturbed"]),
    "differences of two runs": lambda found: str(found["differences"]["pairs"]),
    "of them inside their interval": lambda found: share(found["differences"]["share"]),
    "the same, undisturbed": lambda found: share(found["differences"]["undisturbed_share"]),
    "pairs of arms told apart, in another run": lambda found: str(found["order"]["told_apart"]),
    "of them reversed there": lambda found: str(found["order"]["reversed"]),
    "reversed, but disturbed": lambda found: str(found["order"]["excused"]),
    "rounds": lambda found: str(found["disturbance"]["rounds"]),
    "of them disturbed to the end": lambda found: str(found["disturbance"]["rounds_disturbed"]),
    "samples taken again": lambda found: str(found["disturbance"]["samples_taken_again"]),
}


def _table(scenario: str, of: dict[str, tuple[Path, dict[str, Any]]]) -> str:
    conditions = [condition for condition in _CONDITIONS if condition in of]
    files = ", ".join(f"[{condition}](../results/{of[condition][0].name})" for condition in conditions)
    device = device_named(of[conditions[0]][1]["environment"])
    rows = [[name, *(shown(of[condition][1]) for condition in conditions)] for name, shown in _ROWS.items()]
    return f"`{scenario}` on {device} ({files}):\n\n{markdown_table([scenario, *conditions], rows, left=1)}"
