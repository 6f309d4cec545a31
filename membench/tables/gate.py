"""A comparison as tables: what was compared and the answer first, the worst case on top."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from membench.errors import one_line
from membench.gate.cases import CaseComparison
from membench.gate.comparison import FileComparison
from membench.gate.judge import OF_RATIOS
from membench.gate.metrics import TIMED
from membench.gate.reproduce import reproduce_command
from membench.gate.result_set import Group, LoadedResult
from membench.gate.verdicts import ORDER, MetricVerdict, Verdict
from membench.tables.numbers import short
from membench.tables.table import Column, Table, plain
from membench.words import how_many

_SCREEN_ROWS = 100


def comparison_tables(comparison: FileComparison) -> list[Table]:
    """The cases, the worst first, and the commands that show the regressions again."""
    cases = [*comparison.together, *comparison.cases]  # one row first that answers another question
    rows = [row for case in cases for row in _case_rows(comparison, case)]
    tables = [Table(title(comparison), _caption(comparison), COLUMNS, rows)]
    failing = [case for case in cases if comparison.fails(case)]
    commands = [[case.label, reproduce_command(comparison, case)] for case in failing]
    if commands:
        columns = [Column("regression", right=False), Column("shown again by", right=False)]
        tables.append(Table("To see each again", "", columns, commands))
    return tables


def screen_tables(comparison: FileComparison) -> list[Table]:
    """The same for a terminal: no more rows than anybody reads, the worst of them."""
    return [_cut(table) for table in comparison_tables(comparison)]


def _cut(table: Table) -> Table:
    left = len(table.rows) - _SCREEN_ROWS
    if left <= 0:
        return table
    more = f"{how_many(left, 'more row')}, none worse than these: --json and --markdown have them. {table.caption}"
    return replace(table, caption=more, rows=table.rows[:_SCREEN_ROWS])


def listing(groups: Sequence[Group]) -> list[Table]:
    """Files that were held against nothing, and why."""
    alone = [(group, each) for group in groups if group.baseline is None for each in group.judged]
    rows = [[group.scenario, group.device, each.name, describe(each), group.why] for group, each in alone]
    if not rows:
        return []
    priorities = {"scenario": 1, "device": 3, "file": 1, "run": 3, "why": 2}
    columns = [Column(header, right=False, priority=priority) for header, priority in priorities.items()]
    return [Table("Not compared", "", columns, rows)]


def title(comparison: FileComparison) -> str:
    """Which file is held against which, and the answer."""
    count = Counter(case.worst.verdict for case in comparison.cases)
    answer = ", ".join(f"{count[v]} {v}" for v in ORDER if count[v]) or comparison.incomparable or "no case"
    if comparison.suite is not None:
        answer += f"; all together {comparison.suite.verdict}"
    base, head = comparison.base, comparison.head
    lines = [
        f"{comparison.scenario} on {comparison.device}: {answer}",
        f"new: {head.name} ({describe(head)})",
        f"baseline: {base.name} ({describe(base)})",
    ]
    return "\n".join(map(one_line, lines))


def describe(loaded: LoadedResult) -> str:
    """When and at which commit a file was made."""
    run = loaded.result.run
    commit = f"commit {run.git_sha}{' and changes' if run.git_dirty else ''}" if run.git_sha else "no commit known"
    return f"{run.started}, {commit}, {how_many(run.rounds, 'round')}"


def _caption(comparison: FileComparison) -> str:
    parts = []
    judged = [m for case in comparison.cases for m in case.metrics if m.estimate]
    judged.sort(key=lambda metric: metric.metric != TIMED[0].name)  # the latency's, where there is one
    if judged and (first := judged[0].estimate):
        parts.append(f"Change and its {100 * first.confidence:.4g}% interval: {first.method}; a replicate is a round.")
        if comparison.suite is not None or first.method.startswith("paired") or first.method.endswith(OF_RATIOS):
            parts.append("Neighbouring samples are compared, so the change need not be the ratio of the two medians.")
    if comparison.advisory:
        parts.append(f"Timings are advice only: {comparison.advisory}.")
    return " ".join(parts)


COLUMNS = (
    Column("verdict", right=False),
    Column("case", right=False),
    Column("metric", right=False, priority=2),
    Column("baseline", short, priority=4),
    Column("new", short, priority=4),
    Column("change", lambda v: "-" if v is None else f"{v:+.1%}"),
    Column("interval", priority=3),
    Column("margin", lambda v: "-" if v is None else f"{v:.1%}", priority=5),
    Column("rounds", plain, priority=5),
    Column("why", right=False, priority=2),
)


def _case_rows(comparison: FileComparison, case: CaseComparison) -> list[list[object]]:
    """The case's worst metric, and every other that is not as it was."""
    first = case.worst
    others = [m for m in case.metrics if m is not first and m.verdict not in (Verdict.SAME, Verdict.BETTER)]
    others.sort(key=lambda m: ORDER.index(m.verdict))
    return [_row(comparison, case.label, metric) for metric in (first, *others)]


def _row(comparison: FileComparison, label: str, found: MetricVerdict) -> list[object]:
    advice = " (advisory)" if found.verdict.is_regression and not comparison.fails_by(found) else ""
    estimate = found.estimate
    return [
        f"{found.verdict}{advice}",
        label,
        found.metric,
        found.base,
        found.head,
        found.change,
        None if estimate is None else _interval(found),
        found.margin,
        estimate.rounds if estimate else None,
        found.reason,
    ]


def _interval(found: MetricVerdict) -> str | None:
    interval = found.interval
    return None if interval is None else f"{interval[0]:+.1%} … {interval[1]:+.1%}"
