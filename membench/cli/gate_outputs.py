"""What ``compare`` and ``ab`` show of a comparison: tables or JSON, and the files a CI system wants."""

import sys
from pathlib import Path

from membench.gate.as_json import comparison_json
from membench.gate.comparison import FileComparison
from membench.gate.junit import to_junit
from membench.gate.outcome import outcome_of
from membench.gate.result_set import Group
from membench.records import strict_json
from membench.tables.gate import listing, screen_tables
from membench.tables.gate_summary import append_job_summary, to_summary, write_text
from membench.tables.render import print_tables


def show_comparison(
    comparisons: list[FileComparison],
    groups: list[Group],
    *,
    strict: bool,
    advisory: bool,
    markdown: Path | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Writes everything that was asked for. Returns the exit code.

    Raises:
        UsageError: a file cannot be written.
    """
    outcome = outcome_of(comparisons, strict=strict, advisory=advisory)
    summary = to_summary(comparisons, groups, outcome)
    append_job_summary(summary)
    if markdown:
        write_text(markdown, summary, "--markdown")
    if junit:
        write_text(junit, to_junit(comparisons), "--junit")
    if as_json:
        print(strict_json(comparison_json(comparisons, groups, outcome)))
    else:
        for comparison in comparisons:
            print_tables(screen_tables(comparison))
        print_tables(listing(groups))
    print(f"membench: {outcome.line} (exit code {outcome.exit_code})", file=sys.stderr)
    return outcome.exit_code
