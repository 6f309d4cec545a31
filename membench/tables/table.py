"""A table before it is written: raw values under columns that know how to show them and how much they matter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from membench.errors import one_line


def plain(value: Any) -> str:
    """A value as a table shows it by default; unknown is a dash."""
    return "-" if value is None else str(value)


@dataclass(frozen=True)
class Column:
    """A column: its header with the unit, and how its values are shown.

    ``right``: numbers, which are never broken; what stands on the left is text and may go over several lines,
    between words. ``priority``: 1 is shown at any width; of the others the highest go first where the output is
    narrow, and of equal ones the last.
    """

    header: str
    shown: Callable[[Any], str] = plain
    right: bool = True
    priority: int = 1


@dataclass(frozen=True)
class Table:
    """Rows of raw values under columns that know how to show them.

    A title may have several lines, so whoever makes it passes what comes from a file through ``one_line``.
    ``elsewhere`` says where columns are that a narrow output leaves out.
    """

    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    elsewhere: str = "with --json"

    def headers(self) -> list[str]:
        """The headers, on one line each."""
        return [one_line(column.header) for column in self.columns]

    def cells(self) -> list[list[str]]:
        """The values as shown, on one line each."""
        return [
            [one_line(column.shown(value)) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]
