"""A comparison as Markdown for a pull request: the answer, the worst first, what is unchanged folded away."""

from membench.gate.comparison import FileComparison
from membench.gate.outcome import Outcome
from membench.gate.result_set import Group
from membench.gate.verdicts import Verdict
from membench.tables.gate import COLUMNS, comparison_tables, listing
from membench.tables.render import markdown_text, to_markdown
from membench.tables.table import Table

MARKER = "<!-- membench compare -->"  # by which a bot finds its own comment again
MAX_CHARS = 65_536  # what a comment on GitHub may hold
_CUT = "\n\n… cut: the rest is in the table of the job, or in `membench compare --json`.\n"


def to_summary(comparisons: list[FileComparison], groups: list[Group], outcome: Outcome) -> str:
    """The whole comparison, at most ``MAX_CHARS`` long."""
    parts = [MARKER, f"### membench: {markdown_text(outcome.line)}"]
    for comparison in sorted(comparisons, key=lambda each: not (each.regressions or each.suite_fails)):
        table, *commands = comparison_tables(comparison)
        parts.extend(map(to_markdown, commands))
        parts.append(_folded(table))
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
