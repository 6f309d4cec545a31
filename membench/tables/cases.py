"""Every case of some runs as one table of raw values under the names that records have: what CSV and a page hold."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from membench.json_values import mapping, text
from membench.results.ranking import chosen_implementation, counted
from membench.results.records import Record, ResultFile
from membench.tables.table import Column, Table, plain

_COUNTS = ("params", "active_params", "stored_bytes", "flops", "bytes_min", "bytes_dram_expected")


def raw_table(results: Iterable[ResultFile]) -> Table:
    """A row a case: what it is, its config, counts, budgets and metrics, and where it is from.

    Names carry their units, and values are in them; what does not belong to a case is None.
    """
    rows = [_sections(result, record) for result in results for record in result.cases]
    names = dict.fromkeys(name for section in zip(*rows, strict=True) for part in section for name in part)
    merged = [{name: value for part in row for name, value in part.items()} for row in rows]
    values = [[row.get(name) for name in names] for row in merged]
    columns = [_column(name, [row[index] for row in values]) for index, name in enumerate(names)]
    return Table("", "", columns, values)


def _column(name: str, values: Sequence[Any]) -> Column:
    known = [value for value in values if value is not None]
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    shortened = numeric and any(isinstance(value, float) for value in known)
    return Column(name, four_digits if shortened else plain, right=numeric)


def _scalar(value: Any) -> Any:
    """A value that is one cell; of a list or mapping its JSON."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def four_digits(value: float | None) -> str:
    """A number of any size in at most four digits."""
    return plain(value) if value is None else f"{value:.4g}"


def _sections(result: ResultFile, record: Record) -> tuple[dict[str, Any], ...]:
    """The columns of a case in groups that stay together, whatever other cases have."""
    case, run = record.case, result.run
    point = {key: value if value is None else str(value) for key, value in mapping(record.planned, "point").items()}
    zipf = case.layer.ROUTED and case.routing.kind == "zipf"
    chosen = chosen_implementation(record)
    return (
        {
            "arm": case.arm,
            "layer": case.layer.kind,
            "mode": case.mode,
            "optimizer": case.optimizer,
            "routing": case.routing.kind if case.layer.ROUTED else None,
            "zipf_exponent": case.routing.zipf_exponent if zipf else None,
            "status": record.status,
            "reason": record.reason,
            "implementation": None if chosen is None else str(chosen),
        },
        point,
        {"tokens": case.tokens, "ranks": case.ranks, "rounds": len(record.rounds), "threads": case.threads},
        {name: _scalar(value) for name, value in case.layer.model_dump(mode="json").items() if name != "kind"},
        {name: counted(record, name) for name in _COUNTS},
        {"flops_per_token": record.achieved.get("flops_per_token")},
        {f"{name}_asked": asked for name, asked in record.asked.items()},
        {f"{name}_achieved": record.achieved.get(name) for name in record.asked},
        dict(record.metrics),
        {"labels": "; ".join(record.labels) or None, "flags": "; ".join(record.flags) or None},
        {
            "scenario": run.scenario,
            "device": text(result.environment, "device", "name"),
            "started": run.started,
            "git_sha": run.git_sha,
            "case": record.id,
        },
    )
