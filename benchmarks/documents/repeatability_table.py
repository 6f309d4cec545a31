"""The figures of ``benchmarks.repeatability`` in the method: the newest quiet and loaded series of each scenario."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.documents.recorded import device_named
from benchmarks.documents.tables import markdown_table
from membench.tables.numbers import ratio, share

_CONDITIONS = ("quiet", "loaded")
_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "runs": lambda found: str(len(found["runs"])),
    "minutes a run": lambda found: f"{statistics.median(found['minutes']):.1f}",
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


def repeatability_part(paths: Iterable[Path]) -> str | None:
    """A table a scenario, a column a condition; None as long as nothing was recorded."""
    newest: dict[str, dict[str, tuple[Path, dict[str, Any]]]] = {}
    for path in sorted(paths, key=lambda path: path.name):
        content = json.loads(path.read_text()) if path.name.startswith("repeatability_") else {}
        if content.get("benchmark") == "repeatability":
            of = newest.setdefault(content["scenario"], {})
            if content["condition"] not in of or content["started"] > of[content["condition"]][1]["started"]:
                of[content["condition"]] = (path, content)
    return "\n\n".join(_table(scenario, of) for scenario, of in sorted(newest.items())) or None


def _table(scenario: str, of: dict[str, tuple[Path, dict[str, Any]]]) -> str:
    conditions = [condition for condition in _CONDITIONS if condition in of]
    files = ", ".join(f"[{condition}](../results/{of[condition][0].name})" for condition in conditions)
    devices = dict.fromkeys(device_named(of[condition][1]["environment"]) for condition in conditions)
    rows = [[name, *(shown(of[condition][1]) for condition in conditions)] for name, shown in _ROWS.items()]
    return (
        f"`{scenario}` on {' and '.join(devices)} ({files}):\n\n{markdown_table([scenario, *conditions], rows, left=1)}"
    )
