"""The layers of one run beside its reference layer, as a table."""

from membench.errors import one_line
from membench.gate.result_set import LoadedResult
from membench.gate.verdicts import Verdict
from membench.gate.within import WithinRow
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table, plain

_WORDS = {Verdict.SLOW: "slower", Verdict.FAST: "faster", Verdict.SAME: "the same"}
_COLUMNS = (
    Column("compared at", right=False),
    Column("layer", right=False),
    Column("is", right=False),
    quantity("reference_ms"),
    quantity("step_ms", priority=2),
    quantity("times_reference"),
    Column("interval", priority=3),
    Column("rounds", plain, priority=4),
    Column("why", right=False, priority=3),
)


def within_table(loaded: LoadedResult, rows: list[WithinRow]) -> Table:
    """One row a layer and point."""
    reference = rows[0].reference if rows else "no reference"
    run = loaded.result.run
    title = (
        f"{one_line(f'{run.scenario} on {loaded.device}: every layer against {reference}')}\n{one_line(loaded.name)}"
    )
    caption = "Paired by round; a step is the measured compute and the predicted communication."
    return Table(title, caption, _COLUMNS, [_cells(row) for row in rows])


def _cells(row: WithinRow) -> list[object]:
    found, interval = row.found, row.found.interval
    times = None if found.change is None else 1 + found.change
    shown = None if interval is None else f"{1 + interval[0]:.2f}x … {1 + interval[1]:.2f}x"
    rounds = found.estimate.rounds if found.estimate else None
    word = _WORDS.get(found.verdict, found.verdict.value)
    return [row.group, row.arm, word, found.base, found.head, times, shown, rounds, found.reason]
