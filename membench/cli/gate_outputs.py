"""What ``compare`` and ``ab`` show of a comparison: tables or JSON, and the files a CI system wants."""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from membench.cli import exit_codes
from membench.cli.standard_output import StandardOutput
from membench.errors import UsageError, one_line
from membench.files import append_text, blaming_output, check_writable, write_whole
from membench.gate.as_json import comparison_json
from membench.gate.comparison import FileComparison
from membench.gate.junit import to_junit
from membench.gate.outcome import Outcome, outcome_of
from membench.gate.result_set import Group
from membench.results.records import strict_json
from membench.tables.gate import listing, screen_tables
from membench.tables.gate_summary import to_summary
from membench.tables.render import print_tables


@dataclass(frozen=True, slots=True)
class Outputs:
    """Which outputs were asked for. Call ``checked`` before anything that takes long."""

    strict: bool
    advisory: bool
    markdown: Path | None
    junit: Path | None
    as_json: bool

    def checked(self) -> "Outputs":
        """Returns these, if every file can be written.

        Raises:
            UsageError: a file cannot be written.
        """
        for path, source in self._files():
            check_writable(path, source)
        return self

    def _files(self) -> list[tuple[Path, str]]:
        named = [(self.markdown, "--markdown"), (self.junit, "--junit")]
        return [(path, source) for path, source in named if path]

    def show(self, comparisons: list[FileComparison], groups: list[Group], *, interrupted: bool = False) -> int:
        """Shows the verdict, then writes the files, even if standard output could not be written.

        Returns:
            The exit code.

        Raises:
            UsageError: a file could not be written; the others were.
            OSError: standard output could not be written.
        """
        outcome = outcome_of(comparisons, strict=self.strict, advisory=self.advisory)
        if interrupted:
            outcome = Outcome(exit_codes.INTERRUPTED, f"interrupted; so far: {outcome.line}")
        output = StandardOutput()
        if self.as_json:
            output.take(lambda: print(strict_json(comparison_json(comparisons, groups, outcome))))
        else:
            tables = [*(table for each in comparisons for table in screen_tables(each)), *listing(groups)]
            output.take(lambda: print_tables(tables))
        print(f"membench: {one_line(outcome.line)} (exit code {outcome.exit_code})", file=sys.stderr)
        texts = {"--junit": to_junit(comparisons)} if self.junit else {}
        summary = to_summary(comparisons, groups, outcome)
        _tell_github(summary)
        with ExitStack() as files:  # every file is tried, even if another one fails
            for path, source in self._files():
                files.callback(_write, path, texts.get(source, summary), source)
        output.done("the line above has the verdict")
        return outcome.exit_code


def _write(path: Path, text: str, source: str) -> None:
    with blaming_output(path, source):
        write_whole(path, text.encode(errors="replace"))


def _tell_github(summary: str) -> None:
    """Appends to the file that GitHub shows, if there is one. As it was not asked for, a failure is only reported."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with blaming_output(Path(path), "GITHUB_STEP_SUMMARY"):
                append_text(Path(path), summary)
        except UsageError as error:
            print(f"membench: {error}: no summary for GitHub", file=sys.stderr)
