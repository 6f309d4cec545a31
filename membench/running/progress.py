"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

_BAR_CELLS = 16


def _can_redraw(console: Console) -> bool:
    """Whether what was drawn can be drawn over: a terminal that a person watches, and nobody asked for lines.

    rich takes FORCE_COLOR, TTY_COMPATIBLE and TTY_INTERACTIVE for a terminal: they are no reason to fill a log.
    """
    watched = console.file.isatty() and os.environ.get("CI", "").lower() in ("", "0", "false")
    return watched and console.is_terminal and console.is_interactive and not console.is_dumb_terminal


class RunProgress:
    """Counts finished cases and says what is being done. A context manager.

    With ``every_step`` what is being done is a line too where there is no terminal to show it on.
    """

    def __init__(self, total: int, done: int = 0, *, every_step: bool = False) -> None:
        self._every_step = every_step
        self._console = Console(stderr=True)
        self._total, self._done, self._begin = total, done, time.monotonic()
        self._bar: Progress | None = None
        if _can_redraw(self._console):
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what is being done gives way, no count does
            doing = TextColumn("{task.description}", markup=False, table_column=rest)
            columns = (BarColumn(bar_width=_BAR_CELLS), MofNCompleteColumn(), TimeElapsedColumn(), doing)
            self._bar = Progress(*columns, console=self._console, transient=True, expand=True)
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> "RunProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """There turned out to be so many."""
        self._total = total
        if self._bar:
            self._bar.update(self._task, total=total)

    def doing(self, what: str) -> None:
        """What is under way."""
        if self._bar:
            self._bar.update(self._task, description=what)
        elif self._every_step:
            self.note(f"[{self._elapsed_s():.0f} s] {what}")

    def finished(self, line: str) -> None:
        """One more case is done; its line stays."""
        self._done += 1
        if self._bar:
            self._bar.advance(self._task)
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            self.note(f"[{self._done}/{self._total} {self._elapsed_s():.0f} s] {line}")

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begin

    def note(self, line: str) -> None:
        """A line beside the progress; that nobody reads it any more ends no run."""
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)
