"""A comparison as Markdown for a pull request: the answer, the worst first, what is unchanged folded away."""

import os
from pathlib import Path

from membench.errors import UsageError
from membench.gate.comparison import FileComparison
from membench.gate.outcome import Outcome
from membench.gate.result_set import Group
from membench.gate.verdicts import Verdict
from membench.tables.gate import COLUMNS, comparison_tables, listing
from membench.tables.render import Table, to_markdown

MARKER = "<!-- membench compare -->"  # by which a bot finds its own comment again
MAX_CHARS = 65_536  # what a comment on GitHub may hold
_CUT = "\n\n… cut: the rest is in the table of the job, or in `membench compare --json`.\n"


def to_summary(comparisons: list[FileComparison], groups: list[Group], outcome: Outcome) -> str:
    """The whole comparison, at most ``MAX_CHARS`` long."""
    parts = [MARKER, f"### membench: {outcome.line}"]
    for comparison in comparisons:
        table, *commands = comparison_tables(comparison)
        parts.append(_folded(table))
        parts.extend(map(to_markdown, commands))
    parts.extend(map(to_markdown, listing(groups)))
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - len(_CUT)].rsplit("\n", 1)[0] + _CUT


def _folded(table: Table) -> str:
    quiet = (Verdict.SAME, Verdict.BETTER, Verdict.FAST)
    loud = [row for row in table.rows if row[0] not in quiet]
    rest = [row for row in table.rows if row[0] in quiet]
    shown = to_markdown(Table(table.title, table.caption, COLUMNS, loud))
    if not rest:
        return shown
    folded = to_markdown(Table("", "", COLUMNS, rest))
    return f"{shown}\n<details><summary>{len(rest)} no worse</summary>\n\n{folded}\n</details>\n"


def append_job_summary(text: str) -> None:
    """Appended to ``$GITHUB_STEP_SUMMARY`` where that is set.

    Raises:
        UsageError: it cannot be written.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        write_text(Path(path), text, "GITHUB_STEP_SUMMARY", append=True)


def write_text(path: Path, text: str, source: str, *, append: bool = False) -> None:
    """A text file.

    Raises:
        UsageError: it cannot be written; ``source`` is the option that named it.
    """
    try:
        with path.open("a" if append else "w", encoding="utf-8") as stream:
            stream.write(text)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error})", source=source
        ) from None
