"""What ranks that share a layer send each other in a step, by kind of collective, beside what was counted on."""

import statistics
from collections.abc import Iterator
from typing import Any

from membench.json_values import mapping, number
from membench.results.ranking import arm_name, step_name, swept, tokens_name
from membench.results.records import Record, ResultFile
from membench.tables.numbers import bytes_shown
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table


def communication_table(result: ResultFile) -> list[Table]:
    """A line for each kind of collective of a case; no table where no layer was shared."""
    rows = [row for record in result.cases if record.case.shared_by for row in _rows(record)]
    columns = [
        Column("arm", right=False),
        Column("shared by", right=False, priority=2),
        Column("step", right=False),
        Column("collective", right=False),
        Column("calls", priority=3),
        quantity("sent_bytes"),
        Column("by the formula", bytes_shown, priority=2),
        quantity("communication_ms"),
        quantity("communication_ms_predicted", priority=2),
    ]
    caption = (
        "Of one rank in a step. A call takes as long as the rank that waits least in it; each is waited for before the "
        "next operator begins."
    )
    return [Table("What ranks send each other", caption, columns, rows, "in the result file")] if rows else []


def _rows(record: Record) -> Iterator[list[Any]]:
    done = [r for r in record.rounds if r.status == "ok" and r.communication]
    if not done:
        return
    formula = mapping(done[-1].cost, "communication_bytes")
    predicted = mapping(record.planned, "communication_ms_by_kind")
    where = ", ".join(filter(None, [step_name(record), tokens_name(record), swept(record)]))
    for kind, found in mapping(done[-1].communication, "by_kind").items():
        times = [ms for r in done if (ms := number(r.communication, "by_kind", kind, "ms")) is not None]
        yield [
            arm_name(record),
            record.case.shared_by,
            where,
            kind.replace("_", "-"),
            found.get("calls"),
            found.get("sent_bytes"),
            number(formula, kind),
            statistics.median(times) if times else None,
            number(predicted, kind),
        ]
