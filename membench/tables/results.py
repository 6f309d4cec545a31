"""A result file as tables: what was compared, the answer, then every case."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from membench.errors import one_line
from membench.json_values import number, text, value_at
from membench.layers.spec.quantities import format_quantity
from membench.results.answers import answers_of, how_compared
from membench.results.derived import with_derived
from membench.results.equal_latency import Carried, EqualLatency, equal_latency
from membench.results.ranking import (
    arm_name,
    chosen_implementation,
    comparable_groups,
    counted,
    is_part,
    is_trained,
    peak_bytes,
    rank_key,
    step_ms,
    step_name,
    swept,
    tokens_name,
    trained_name,
    yardstick,
)
from membench.results.records import Answer, Record, ResultFile
from membench.tables.communication import communication_table
from membench.tables.learnt import answer_tables, differences_tables, learnt_tables
from membench.tables.numbers import budget, ratio, signed
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table, plain
from membench.words import how_many

_MEASURED_TOGETHER = ("compute_ms", "communication_ms", "sent_bytes")  # by ranks that share a layer
_COMMUNICATION = (*_MEASURED_TOGETHER, "communication_ms_predicted")
_FILE = "in the result file"


def result_tables(result: ResultFile) -> list[Table]:
    """What was compared and the answer first; then the arms with their budgets; then the measurements."""
    result = with_derived(result)
    if any(map(is_trained, result.cases)):
        learnt = [*learnt_tables(result), *differences_tables(result)]
        return [*answer_tables(result), arms_table(result), *learnt, *notes_table(result)]
    groups, answers = comparable_groups(result.cases), answers_of(result)
    return [
        _answer_table(result, list(answers.values())),
        arms_table(result),
        *(_cases_table(title, records, answers[title]) for title, records in groups.items() if _measured(records)),
        *communication_table(result),
        *equal_latency_tables(groups),
        *_parts_table(result),
        *notes_table(result),
    ]


def equal_latency_tables(groups: Mapping[str, list[Record]]) -> list[Table]:
    """What each arm carries at the yardstick's latency, by comparable group; none where arms have one size each."""
    found = ((title, equal_latency(records)) for title, records in groups.items())
    return [_equal_latency_table(title, lines) for title, lines in found if lines]


def _equal_latency_table(title: str, lines: list[EqualLatency]) -> Table:
    columns = [
        Column("at the latency of", right=False),
        quantity("params"),
        quantity("step_ms"),
        *(Column(f"{arm} params", _carried) for arm in lines[0].carried),
    ]
    rows = [[line.yardstick, line.params, line.latency_ms, *line.carried.values()] for line in lines]
    caption = (
        "Between measured sizes along straight lines in log-log. over: its largest size is faster than that; "
        "under: its smallest is slower."
    )
    return Table(f"Parameters at equal latency: {title}", caption, columns, rows, _FILE)


def _carried(found: Carried) -> str:
    return f"{found.bound} {format_quantity(found.params)}".strip()


def _parts_table(result: ResultFile) -> list[Table]:
    """What models that were measured in parts are the sums of; no table where none was."""
    parts = [record for record in result.cases if is_part(record)]
    names = ("latency_ms_p50", "mfu", "mbu", "floor_ms", "over_floor")
    columns = [
        Column("part", right=False),
        Column("step", right=False),
        Column("of the models", right=False, priority=3),
        *map(quantity, names),
    ]
    rows = [
        [
            record.case.arm,
            f"{step_name(record)}, {tokens_name(record)}",
            ", ".join(_times_in(result, record)),
            *(record.metrics.get(name) for name in names),
        ]
        for record in parts
    ]
    caption = "A model's step is the sum of its parts' medians, each as often as the model has it."
    return [Table("Parts of the models", caption, columns, rows, _FILE)] if rows else []


def _times_in(result: ResultFile, part: Record) -> list[str]:
    """The models that a part is of, with how many of it each has."""
    counts = [(r.case.arm, number(r.planned, "parts", part.id)) for r in result.cases]
    return [f"{arm} {count:.0f}" for arm, count in counts if count]


def _measured(records: Sequence[Record]) -> bool:
    return any(step_ms(record) for record in records)


def _answer_table(result: ResultFile, answers: Sequence[Answer]) -> Table:
    """Only what holds: the arms that may be fastest, and those that surely are not, by the lowest median."""
    columns = [
        Column("compared at", right=False),
        Column("fastest step", right=False),
        quantity("step_ms"),
        quantity("step_ms_interval"),
        Column("surely slower", right=False, priority=2),
    ]
    run = result.run
    compared = f"{run.scenario}: {run.description}" if run.description else run.scenario
    title = f"{one_line(compared)}\non {one_line(device_name(result))}"
    return Table(title, how_measured(result), columns, [_answer_cells(each) for each in answers], _FILE)


def _answer_cells(found: Answer) -> list[Any]:
    if not found.standings:
        return [found.compared_at, "nothing was measured", None, None, None]
    first, others = found.standings[0], found.standings[1:]
    if others and not found.fastest:
        return [found.compared_at, f"{found.no_order}: no order", None, None, None]
    slower = ", ".join(f"{each.arm} {ratio(each.times_lowest)}" for each in others if each.place_low != 1)
    return [found.compared_at, ", ".join(found.fastest) or first.arm, first.step_ms, first.interval_ms, slower or None]


def device_name(result: ResultFile) -> str:
    """What it ran on."""
    name, cores = text(result.environment, "device", "name"), value_at(result.environment, "device", "cores")
    known = how_many(cores, "core") if isinstance(cores, int) else f"{plain(cores)} cores"
    return f"{name or 'an unknown device'} ({known})"


def how_measured(result: ResultFile) -> str:
    """One device or one rank's share, how many rounds, and what a step is."""
    run = result.run
    shared = any(record.case.shared_by for record in result.cases)
    hosts = {text(rank, "host") for record in result.cases for r in record.rounds for rank in r.ranks}
    where = f" on {how_many(len(hosts), 'host')}" if hosts else ""
    if any(map(is_trained, result.cases)):
        by = f"by {how_many(run.ranks, 'rank')} together{where}" if shared else "on one device"
        return f"The whole model trained {by}, {how_many(run.rounds, 'seed')} of each arm."
    rounds = how_many(run.rounds, "round")
    if shared:
        return f"Each layer shared by {how_many(run.ranks, 'rank')}{where}, {rounds}. A step is the slowest rank's."
    if run.ranks == 1:
        return f"The whole layer on one device, {rounds}."
    link = run.network or (None if run.link_gb_s is None else f"{run.link_gb_s:g} GB/s a rank")
    predicted = "unknown" if link is None else f"predicted for {link}"
    return (
        f"One rank's share of a {run.ranks}-way parallel layer (P {run.ranks_reason}), {rounds}. "
        f"A step is the measured compute of one rank plus its communication, which is {predicted}."
    )


def arms_table(result: ResultFile) -> Table:
    """Every arm's size, and its budgets as asked and achieved."""
    budgets = list(dict.fromkeys(name for r in result.cases for name in r.asked))
    columns = [
        Column("arm", right=False),
        Column("layer", right=False, priority=4),
        *(quantity(name) for name in ("params", "active_params", "flops_per_token", "stored_bytes")),
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


def _cases_table(title: str, records: list[Record], found: Answer) -> Table:
    beside, beside_ms = yardstick(records)
    failed = any(r.status != "ok" for r in records)
    told: list[tuple[Column, Callable[[Record], Any]]] = [
        (Column("arm", right=False), arm_name),
        (Column("status", right=False, priority=1 if failed else 5), lambda r: r.status),
        (quantity("place"), lambda r: (at := found.standing(r.id)) and at.places),
        *map(_metric, ("latency_ms_p50", "latency_ms_iqr", *_COMMUNICATION, "step_ms")),
        (quantity("step_ms_interval"), lambda r: (at := found.standing(r.id)) and at.interval_ms),
        (quantity("vs_yardstick", beside=beside), lambda r: _times(step_ms(r), beside_ms)),
        *map(
            _metric, ("tokens_per_s", "mfu", "mbu", "floor_ms", "over_floor", "dram_bytes_per_s", "unique_per_lookup")
        ),
        *map(_metric, ("expert_load_max_over_mean", "energy_j_per_token")),
        (quantity("peak_bytes"), peak_bytes),
        _metric("reference_error"),
        (Column("ran", right=False, priority=6), lambda r: plain(chosen_implementation(r))),
    ]
    absent = set()
    if not any(each.places for each in found.standings):
        absent.add(quantity("place").header)
    if not any(each.interval_ms for each in found.standings):
        absent.add(quantity("step_ms_interval").header)
    absent |= {quantity(n).header for n in _MEASURED_TOGETHER if all(r.metrics.get(n) is None for r in records)}
    if beside_ms is None:
        absent.add(quantity("vs_yardstick", beside=beside).header)
    if not any(r.metrics.get("energy_j_per_token") for r in records):
        absent.add(quantity("energy_j_per_token").header)
    told = [(column, value) for column, value in told if column.header not in absent]
    rows = [[value(record) for _, value in told] for record in sorted(records, key=rank_key)]
    titled = title if found.no_order is None or len(found.standings) < 2 else f"{title} ({found.no_order}: no order)"
    return Table(titled, how_compared(records, found), [column for column, _ in told], rows, _FILE)


def _metric(name: str) -> tuple[Column, Callable[[Record], Any]]:
    return quantity(name), lambda record: record.metrics.get(name)


def _times(step: float | None, beside_ms: float | None) -> float | None:
    return step / beside_ms if step and beside_ms else None


def notes_table(result: ResultFile) -> list[Table]:
    """Why cases did not run and what to distrust of those that did; what layers say of themselves. No empty table."""
    where: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for record in result.cases:
        for note in ([record.reason] if record.reason else []) + record.flags:
            case = record.case
            at = f" ({swept(record)})" if swept(record) else ""
            told = trained_name(record) if is_trained(record) else f"{step_name(record)} x{case.tokens}{at}"
            where[case.arm, record.status, note].append(told)
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
