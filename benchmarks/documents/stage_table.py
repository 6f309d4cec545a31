"""The stages of blocks that decode, from files of ``membench profile --output``: each over its floor, and why."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.documents.recorded import device_named, own_form
from benchmarks.documents.tables import markdown_table
from membench.errors import UsageError

MOST_TIMES_FLOOR = 2.0  # above it a stage wants a sentence
_FEW_ROWS = "some hundred random rows are too few to keep as many lines under way as the row ceiling assumes."
WHY = {
    "top_k": "it reads the scores that were just written, which lie in the cache. Its time is the choice itself, head "
    "by head.",
    "bag": _FEW_ROWS,
    "router": "a matrix of one row an expert is read at once; softmax and choice are one thread's.",
    "combine": "what a few experts gave for one token lies in the cache; its time is that of threads that wait for "
    "each other.",
}
_OF_KIND = {("peer", "experts"): f"two rows each: {_FEW_ROWS}"}


def stages_part(paths: Iterable[Path]) -> str | None:
    """A table of the newest profile of each kind of block in decode; None as long as nothing was recorded.

    Raises:
        UsageError: a stage is above twice its floor and nothing says why.
    """
    newest: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in paths:
        content = own_form(path) if path.name.startswith("profile-") else {}
        for layer in content.get("layers", []):
            kind = layer["layer"].get("ffn", {}).get("kind")
            if kind and (kind not in newest or content["started"] > newest[kind][1]["started"]):
                newest[kind] = path, content
    found = [(kind, *of) for kind, of in sorted(newest.items())]
    tables = [_table(kind, path, content) for kind, path, content in found]
    why: dict[str, dict[str, list[str]]] = {}  # by what is said, the stages of it and their kinds
    for kind, path, content in found:
        for row in _rows(kind, content):
            if (_over(row) or 0) > MOST_TIMES_FLOOR:
                why.setdefault(_why(kind, row, path), {}).setdefault(row["label"], []).append(kind)
    reasons = []
    for reason, stages in why.items():
        named = ", ".join(f"`{label}` ({', '.join(kinds)})" for label, kinds in stages.items())
        reasons.append(f"* {named}: {reason}")
    return "\n\n".join([*tables, "\n".join(reasons)]).strip() or None


def _rows(kind: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a kind's block in decode."""
    return [
        row
        for layer in content["layers"]
        if layer["layer"].get("ffn", {}).get("kind") == kind
        for mode in layer["modes"]
        if mode["mode"] == "decode"
        for row in mode["stages"]
    ]


def _table(kind: str, path: Path, content: dict[str, Any]) -> str:
    shown = [
        [row["label"], _number(row["time_ms"], ".3f"), _number(row["floor_ms"], ".3f"), _number(_over(row), ".3g")]
        for row in _rows(kind, content)
    ]
    table = markdown_table(["stage", "ms", "floor, ms", "times its floor"], shown, left=1)
    begin = f"`{kind}` on {device_named(content['environment'])} ([`{path.name}`](../results/{path.name})):"
    return f"{begin}\n\n{table}"


def _over(row: dict[str, Any]) -> float | None:
    return row["times_floor"]


def _why(kind: str, row: dict[str, Any], path: Path) -> str:
    found = _OF_KIND.get((kind, row["name"])) or WHY.get(row["name"])
    if found is None:
        problem = (
            f"stage {row['label']} of {kind} takes {_over(row):.1f} times its floor and nothing says why: measure it "
            f"on a quiet machine, or say why in {Path(__file__).name}"
        )
        raise UsageError(problem, source=str(path))
    return found


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
