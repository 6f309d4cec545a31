"""A result file as tables: what was compared, the answer, then every case."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from membench.errors import one_line
from membench.json_values import text, value_at
from membench.layers.spec.quantities import format_quantity
from membench.results.ranking import (
    arm_name,
    chosen_implementation,
    comparable_groups,
    counted,
    rank_key,
    ranked,
    step_ms,
    step_name,
    swept,
    yardstick,
)
from membench.results.records import Record, ResultFile
from membench.tables.numbers import budget, giga, percent, ratio, short, signed
from membench.tables.table import Column, Table, plain
from membench.words import how_many

_FILE = "in the result file"


def result_tables(result: ResultFile) -> list[Table]:
    """What was compared and the answer first; then the arms with their budgets; then the measurements."""
    groups = comparable_groups(result.cases)
    return [
        _answer_table(result, groups),
        arms_table(result),
        *(_cases_table(title, records) for title, records in groups.items() if ranked(records)),
        *notes_table(result),
    ]


def _answer_table(result: ResultFile, groups: dict[str, list[Record]]) -> Table:
    rows = []
    for title, records in groups.items():
        order = ranked(records)
        if not order:
            rows.append([title, "nothing was measured", None, None])
            continue
        best = order[0]
        others = ", ".join(f"{arm_name(r)} {rank_key(r) / rank_key(best):.2f}x" for r in order[1:])
        rows.append([title, arm_name(best), step_ms(best), others])
    columns = [
        Column("compared at", right=False),
        Column("fastest step", right=False),
        Column("step ms", short),
        Column("the others take", right=False, priority=2),
    ]
    run = result.run
    compared = f"{run.scenario}: {run.description}" if run.description else run.scenario
    title = f"{one_line(compared)}\non {one_line(device_name(result))}"
    return Table(title, how_measured(result), columns, rows, _FILE)


def device_name(result: ResultFile) -> str:
    """What it ran on."""
    name, cores = text(result.environment, "device", "name"), value_at(result.environment, "device", "cores")
    known = how_many(cores, "core") if isinstance(cores, int) else f"{plain(cores)} cores"
    return f"{name or 'an unknown device'} ({known})"


def how_measured(result: ResultFile) -> str:
    """One device or one rank's share, how many rounds, and what a step is."""
    run = result.run
    rounds = how_many(run.rounds, "round")
    if run.ranks == 1:
        return f"The whole layer on one device, {rounds}."
    link = "unknown" if run.link_gb_s is None else f"predicted for {run.link_gb_s:g} GB/s a rank"
    return (
        f"One rank's share of a {run.ranks}-way parallel layer (P {run.ranks_reason}), {rounds}. "
        f"A step is the measured compute of one rank plus its communication, which is {link}."
    )


def arms_table(result: ResultFile) -> Table:
    """Every arm's size, and its budgets as asked and achieved."""
    budgets = list(dict.fromkeys(name for r in result.cases for name in r.asked))
    columns = [
        Column("arm", right=False),
        Column("layer", right=False, priority=4),
        Column("params", format_quantity),
        Column("active", format_quantity, priority=3),
        Column("FLOPs/token", format_quantity),
        Column("stored GB", giga, priority=2),
    ]
    for name in budgets:
        shown = budget(name)
        columns += [
            Column(f"{name} asked", shown, priority=3),
            Column("achieved", shown, priority=3),
            Column("off %", signed, priority=3),
        ]
    rows = {}
    for record in result.cases:
        budget_cells: list[Any] = []
        for name in budgets:
            asked, achieved = record.asked.get(name), record.achieved.get(name)
            off = 100 * (achieved / asked - 1) if asked and achieved is not None else None
            budget_cells += [asked, achieved if asked else None, off]
        key = record.case.arm + record.case.layer.model_dump_json()
        rows[key] = [
            arm_name(record),
            ", ".join([record.case.layer.kind, *record.labels]),
            counted(record, "params"),
            counted(record, "active_params"),
            record.achieved.get("flops_per_token"),
            counted(record, "stored_bytes"),
            *budget_cells,
        ]
    return Table("Arms: budgets asked and achieved", "", columns, list(rows.values()), _FILE)


def _cases_table(title: str, records: list[Record]) -> Table:
    beside, beside_ms = yardstick(records)
    columns = [
        Column("arm", right=False),
        Column("status", right=False, priority=1 if any(r.status != "ok" for r in records) else 5),
        Column("latency ms", short, priority=2),
        Column("iqr ms", short, priority=4),
        Column("comm ms", short, priority=4),
        Column("step ms", short),
        Column(f"vs {beside}", ratio, priority=2),
        Column("tokens/s", format_quantity, priority=5),
        Column("MFU", percent, priority=3),
        Column("MBU", percent, priority=3),
        Column("GB/s", giga, priority=5),
        Column("U/L", short, priority=5),
        Column("load max/mean", short, priority=6),
        Column("J/token", short, priority=4),
        Column("peak GB", giga, priority=5),
        Column("ref error", lambda v: "-" if v is None else f"{v:.1e}", priority=6),
        Column("ran", right=False, priority=6),
    ]
    if beside_ms is None:
        columns = [c for c in columns if not c.header.startswith("vs ")]
    if not any(r.metrics.get("energy_j_per_token") for r in records):
        columns = [c for c in columns if c.header != "J/token"]
    rows = [_case_cells(columns, record, beside_ms) for record in sorted(records, key=rank_key)]
    return Table(title, "", columns, rows, _FILE)


def _case_cells(columns: list[Column], record: Record, beside_ms: float | None) -> list[Any]:
    m, step = record.metrics, step_ms(record)
    times = step / beside_ms if step and beside_ms else None
    cells = {
        "arm": arm_name(record),
        "status": record.status,
        "latency ms": m.get("latency_ms_p50"),
        "iqr ms": m.get("latency_ms_iqr"),
        "comm ms": m.get("communication_ms_predicted"),
        "step ms": m.get("step_ms"),
        "vs dense": times,
        "vs plain": times,
        "tokens/s": m.get("tokens_per_s"),
        "MFU": m.get("mfu"),
        "MBU": m.get("mbu"),
        "GB/s": m.get("dram_bytes_per_s"),
        "U/L": m.get("unique_per_lookup"),
        "load max/mean": m.get("expert_load_max_over_mean"),
        "J/token": m.get("energy_j_per_token"),
        "peak GB": m.get("peak_allocated_bytes") or m.get("peak_process_bytes"),
        "ref error": m.get("reference_error"),
        "ran": plain(chosen_implementation(record)),
    }
    return [cells[column.header] for column in columns]


def notes_table(result: ResultFile) -> list[Table]:
    """Why cases did not run and what to distrust of those that did; what layers say of themselves. No empty table."""
    where: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for record in result.cases:
        for note in ([record.reason] if record.reason else []) + record.flags:
            case = record.case
            at = f" ({swept(record)})" if swept(record) else ""
            where[case.arm, record.status, note].append(f"{step_name(record)} x{case.tokens}{at}")
    rows = [[arm, status, note, ", ".join(dict.fromkeys(cases))] for (arm, status, note), cases in where.items()]
    told = dict.fromkeys((r.case.arm, note) for r in result.cases for round_ in r.rounds for note in round_.notes)
    tables = [
        _words("Notes", {"arm": 1, "status": 2, "note": 1, "in": 2}, rows),
        _words("What layers say of themselves", {"arm": 1, "note": 1}, list(told)),
    ]
    return [table for table in tables if table.rows]


def _words(title: str, headers: dict[str, int], rows: Sequence[Sequence[str]]) -> Table:
    """A table of text; the headers with the columns' priorities."""
    columns = [Column(header, right=False, priority=priority) for header, priority in headers.items()]
    return Table(title, "", columns, rows, _FILE)
