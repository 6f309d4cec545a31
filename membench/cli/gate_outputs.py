"""What ``compare`` and ``ab`` show of a comparison: tables or JSON, and the files a CI system wants."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from membench.cli import exit_codes
from membench.errors import UsageError, one_line
from membench.gate.as_json import comparison_json
from membench.gate.comparison import FileComparison
from membench.gate.junit import to_junit
from membench.gate.outcome import Outcome, outcome_of
from membench.gate.result_set import Group
from membench.records import strict_json
from membench.tables.gate import listing, screen_tables
from membench.tables.gate_summary import to_summary
from membench.tables.render import print_tables


@dataclass(frozen=True, slots=True)
class Outputs:
    """What was asked for beside the verdict. ``checked`` before anything takes long."""

    strict: bool
    advisory: bool
    markdown: Path | None
    junit: Path | None
    as_json: bool

    def checked(self) -> "Outputs":
        """These, if every file can be written.

        Raises:
            UsageError: one cannot.
        """
        for path, source in self._files():
            write_text(path, "", source, append=True)
        return self

    def _files(self) -> list[tuple[Path, str]]:
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        named = [(self.markdown, "--markdown"), (self.junit, "--junit")]
        named.append((Path(summary) if summary else None, "GITHUB_STEP_SUMMARY"))
        return [(path, source) for path, source in named if path]

    def show(self, comparisons: list[FileComparison], groups: list[Group], *, interrupted: bool = False) -> int:
        """Says the verdict first, then writes the files. Returns the exit code."""
        outcome = outcome_of(comparisons, strict=self.strict, advisory=self.advisory)
        if interrupted:
            outcome = Outcome(exit_codes.INTERRUPTED, f"interrupted; so far: {outcome.line}")
        if self.as_json:
            print(strict_json(comparison_json(comparisons, groups, outcome)))
        else:
            for comparison in comparisons:
                print_tables(screen_tables(comparison))
            print_tables(listing(groups))
        print(f"membench: {one_line(outcome.line)} (exit code {outcome.exit_code})", file=sys.stderr)
        texts = {"--junit": to_junit(comparisons)} if self.junit else {}
        summary = to_summary(comparisons, groups, outcome)
        for path, source in self._files():
            write_text(path, texts.get(source, summary), source, append=source == "GITHUB_STEP_SUMMARY")
        return outcome.exit_code


def write_text(path: Path, text: str, source: str, *, append: bool) -> None:
    """A text file.

    Raises:
        UsageError: it cannot be written; ``source`` is the option that named it.
    """
    try:
        with path.open("a" if append else "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written ({reason})", source=source) from None
