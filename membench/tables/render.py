"""One generic table, for a terminal, for Markdown and for CSV."""

import csv
import io
import math
import re
from collections.abc import Iterable
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from membench.errors import one_line
from membench.tables.fitting import Fitted, fitted, wrapped
from membench.tables.table import Column, Table
from membench.tables.width import asked_width

__all__ = ["Column", "Table", "markdown_text", "print_tables", "to_csv", "to_markdown"]

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~])")
_PIPE_WIDTH = 220  # characters of a line of text, where the output is no terminal
_PLAIN = str.maketrans({"…": "~", "²": "^2", "×": "x", "–": "-", "—": "-", "’": "'"})
_FORMULA = re.compile(r"[=+\-@\t\r＝＋－＠]")


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, the caption below it."""
    header = [_markdown(column) for column in table.headers()]
    rule = ["---:" if column.right else "---" for column in table.columns]
    lines = [header, rule, *([_markdown(cell) for cell in row] for row in table.cells())]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"**{_markdown(table.title)}**", body, _markdown(table.caption)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(table: Table) -> str:
    """The raw values under their headers, which therefore name the raw unit; unknown is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_csv_cell(header) for header in table.headers()])
    writer.writerows([_csv_cell(value) for value in row] for row in table.rows)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    """A value as a spreadsheet should take it: no text is a formula, and no number that is none is a number."""
    if isinstance(value, str):
        return f"'{value}" if _FORMULA.match(value) else value
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


class _Console(Console):
    """A console that leaves a broken pipe to its caller: rich ends the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_tables(tables: Iterable[Table], file: TextIO | None = None) -> None:
    """Writes tables to standard output, or to ``file``, each in the width of the terminal or of ``COLUMNS``.

    Where neither is known no column is left out. Colours are rich's matter; that they are forced makes no terminal.
    """
    console = _Console(file=file, highlight=False, emoji=False, markup=False)
    width = asked_width()
    if width is None and console.file.isatty():
        width = console.width
    for table in tables:
        _print(console, table, width)


def _print(console: Console, table: Table, width: int | None) -> None:
    """A title, the columns that fit, and what to know below them."""

    def shown(text: str) -> str:
        return _encodable(text, console.encoding)

    found = fitted(table, width or _PIPE_WIDTH, shown)
    if width is None and (found.left_out or found.width > _PIPE_WIDTH):
        found = fitted(table, None, shown)
    line_width = width or max(_PIPE_WIDTH, found.width)
    console.width = max(line_width, found.width)

    def say(text: str, style: str) -> None:
        for line in text.splitlines():
            for part in wrapped(shown(one_line(line)), line_width, fold=True):
                console.print(Text(part, style=style))

    say(table.title, "table.title")
    console.print(_grid(table, found, shown))
    left_out = f"Also {table.elsewhere}: {', '.join(found.left_out)}." if found.left_out else ""
    say("\n".join(filter(None, (left_out, table.caption))), "table.caption")


def _grid(table: Table, found: Fitted, shown: Any) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD)
    for index, header in zip(found.kept, found.header, strict=True):
        right = table.columns[index].right
        grid.add_column(_lines(header, shown), justify="right" if right else "left", no_wrap=True, overflow="crop")
    for row in found.rows:
        grid.add_row(*(_lines(lines, shown) for lines in row))
    return grid


def _lines(lines: list[str], shown: Any) -> Text:
    return Text("\n".join(map(shown, lines)))


def _encodable(text: str, encoding: str) -> str:
    """The text as an output of this encoding can hold it."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
    return text


def markdown_text(text: str) -> str:
    """A text as one line that Markdown shows as it is."""
    return _markdown(one_line(text))


def _markdown(text: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)
