"""What level training found, as sentences and Markdown tables."""

from collections.abc import Sequence

from benchmarks.documents.filled import filled
from benchmarks.documents.tables import markdown_table
from membench.json_values import number
from membench.results.ranking import arm_name, counted, trained_groups
from membench.results.records import Record, ResultFile
from membench.tables.learnt import answer_tables, interval_of
from membench.tables.quantity import quantity

_FIGURES = ("em", "bits_per_fact", "bits_per_param", "training_flops", "energy_j_per_token")


def learnt_parts(result: ResultFile) -> list[str]:
    """At each point the answer, and every arm by its NLL."""
    (answers,) = answer_tables(result)
    groups = trained_groups(result.cases)
    return [
        part
        for row, records in zip(answers.rows, groups.values(), strict=True)
        for part in (filled(_sentence(*row)), _arms(records))
    ]


def _sentence(
    at: str, best: str, nll: float | None, ends: tuple[float, float] | None, alike: str | None, worse: str | None
) -> str:
    if nll is None:
        return f"**{at}**: {best}."
    lies = "" if ends is None else f" ({ends[0]:.3g} – {ends[1]:.3g})"
    told = f" Not told apart from it: {alike}." if alike else ""
    surely = f" Surely worse, in nats: {worse}." if worse else ""
    return f"**{at}**: the lowest answer NLL is {best}'s, {nll:.3g}{lies}.{told}{surely}"


def _arms(records: Sequence[Record]) -> str:
    names = [name for name in _FIGURES if any(number(record.metrics, name) is not None for record in records)]
    columns = [quantity(name) for name in ("params", "answer_nll", "answer_nll_interval", *names)]
    known = sorted(records, key=lambda record: number(record.metrics, "answer_nll") or float("inf"))
    rows = []
    for record in known:
        figures = [record.metrics.get(name) for name in names]
        values = [
            counted(record, "params"),
            record.metrics.get("answer_nll"),
            interval_of(record, "answer_nll"),
            *figures,
        ]
        rows.append([arm_name(record), *(column.shown(value) for column, value in zip(columns, values, strict=True))])
    return markdown_table(["arm", *(column.header for column in columns)], rows, left=1)
