"""One generic table, for a terminal, for Markdown and for CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from membench.errors import one_line

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~])")
_PIPE_WIDTH = 220  # characters, where the output is no terminal


def plain(value: Any) -> str:
    """A value as a table shows it by default; unknown is a dash."""
    return "-" if value is None else str(value)


@dataclass(frozen=True)
class Column:
    """A column: its header with the unit, and how its values are shown."""

    header: str
    shown: Callable[[Any], str] = plain
    right: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of raw values under columns that know how to show them.

    A title may have several lines, so whoever makes it passes what comes from a file through ``one_line``.
    """

    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]

    def cells(self) -> list[list[str]]:
        """The values as shown, on one line each."""
        return [
            [one_line(column.shown(value)) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


def to_rich(table: Table) -> RichTable:
    """For a terminal."""
    rendered = RichTable(
        title=escape(table.title),
        caption=escape(table.caption) or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in table.columns:
        rendered.add_column(escape(column.header), justify="right" if column.right else "left", overflow="fold")
    for row in table.cells():
        rendered.add_row(*map(escape, row))
    return rendered


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, the caption below it."""
    header = [_markdown(column.header) for column in table.columns]
    rule = ["---:" if column.right else "---" for column in table.columns]
    lines = [header, rule, *([_markdown(cell) for cell in row] for row in table.cells())]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"**{_markdown(table.title)}**", body, _markdown(table.caption)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(table: Table) -> str:
    """The raw values under their headers; unknown is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.header for column in table.columns])
    writer.writerows(["" if value is None else value for value in row] for row in table.rows)
    return out.getvalue()


class _Console(Console):
    """A console that leaves a broken pipe to its caller: rich ends the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_tables(tables: Iterable[Table], file: TextIO | None = None) -> None:
    """Writes tables to standard output, or to ``file``; wide where that is no terminal."""
    console = _Console(file=file, highlight=False)
    if not console.is_terminal:
        console = _Console(file=file, highlight=False, width=_PIPE_WIDTH)
    for table in tables:
        console.print(to_rich(table))


def markdown_text(text: str) -> str:
    """A text as one line that Markdown shows as it is."""
    return _markdown(one_line(text))


def _markdown(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)
