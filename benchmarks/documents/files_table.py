"""The table of ``results/README.md``: what made each file, and on what.

A row that is there stays as it is, for a person may have said more of the file than it says itself.
"""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.documents.recorded import device_named, own_form
from membench.json_values import mapping, text

_ROW = re.compile(r"^\| \[(\S+)\]", re.MULTILINE)
_HEAD = "| file | made by | on |\n|---|---|---|"
_OF_THE_READER = ("--output", "--markdown")  # where files went says nothing of how they were made


def listed(table: str) -> list[str]:
    """The names of the files that a table lists."""
    return _ROW.findall(table)


def files_table(table: str, folder: Path, quoted: Iterable[str]) -> str:
    """The table with a row for each file that it lists or that a document quotes, without files that are gone."""
    rows = {name: line for line in table.splitlines() for name in listed(line)}
    names = dict.fromkeys([*rows, *quoted])
    kept = [name for name in names if (folder / name).exists()]
    return "\n".join([_HEAD, *(rows.get(name) or _row(folder / name) for name in kept)])


def _row(path: Path) -> str:
    content = own_form(path)
    return f"| [{path.name}]({path.name}) | {_made_by(content)} | {device_named(mapping(content, 'environment'))} |"


def _made_by(content: dict[str, Any]) -> str:
    command = text(content, "run", "command") or text(content, "command")
    if command is None:
        return f"`python -m benchmarks.{text(content, 'benchmark')}` (of its own form)"
    try:
        words = iter(shlex.split(command))
    except ValueError:  # an open quotation
        words = iter(command.split())
    kept = []
    for word in words:
        if word in _OF_THE_READER:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in _OF_THE_READER)):
            kept.append(word)
    return f"`{shlex.join(kept)}`"
