"""The page's tables: the decision, what the inputs touched, the machine, and every number there is."""

from collections.abc import Iterator, Sequence
from typing import Any

from membench.json_values import mapping, number, text
from membench.report.evidence import Evidence, ceilings_of
from membench.results.answers import how_compared
from membench.results.ranking import counted, rank_key, yardstick
from membench.results.records import Answer, ResultFile, Round
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table, plain

_TOLD_BY_THEMSELVES = ("device", "packages", "fingerprint")
_DEEPEST = 4
_DECIDED_BY = (
    "over_floor",
    "floor_ms",
    "latency_ms_iqr",
    "flops_per_token",
    "stored_bytes",
    "peak_bytes",
    "energy_j_per_token",
    "mfu",
    "mbu",
    "tokens_per_s",
    "latency_ms_p50",
    "communication_ms_predicted",
    "params",
    "active_params",
)
_TOUCHED = (
    "lookups",
    "unique_rows",
    "unique_per_lookup",
    "active_experts",
    "expert_load_max_over_mean",
    "expert_load_entropy_bits",
    "dropped_tokens",
)


def decision_table(cases: Sequence[Evidence], found: Answer) -> Table:
    """What one decides by: a row an arm, the lowest median first; columns that nobody has are left out."""
    beside, beside_ms = yardstick(case.record for case in cases)
    columns = [
        Column("arm", right=False),
        quantity("place"),
        *(quantity(name, aligned=True) for name in ("step_ms", "step_ms_interval", "vs_lowest")),
        quantity("vs_yardstick", beside=beside),
        *(quantity(name, aligned=True) for name in _DECIDED_BY),
    ]
    rows = [_decision_cells(case, found, beside_ms) for case in sorted(cases, key=lambda c: rank_key(c.record))]
    caption = how_compared([case.record for case in cases], found)
    return _without_empty(Table("", caption, columns, rows))


def _decision_cells(case: Evidence, found: Answer, beside: float | None) -> list[Any]:
    step, standing = case.step_ms, found.standing(case.record.id)
    name = case.name if case.measured else f"{case.name} ({case.record.status})"
    return [
        name,
        standing and standing.places,
        step,
        standing and standing.interval_ms,
        standing and standing.times_lowest,
        step / beside if step and beside else None,
        case.metric("over_floor"),
        case.metric("floor_ms"),
        case.metric("latency_ms_iqr"),
        case.flops_per_token,
        case.stored_bytes,
        case.peak_bytes,
        case.joules_per_token,
        case.metric("mfu"),
        case.metric("mbu"),
        case.tokens_per_s,
        case.latency_ms,
        case.metric("communication_ms_predicted"),
        counted(case.record, "params"),
        counted(case.record, "active_params"),
    ]


def traffic_table(cases: Sequence[Evidence]) -> Table:
    """What the timed inputs really touched: unique rows over lookups, experts and their load."""
    columns = [
        Column("arm", right=False),
        *(quantity(name, aligned=True) for name in _TOUCHED),
    ]
    rows = []
    for case in cases:
        last: Round | None = next((r for r in reversed(case.record.rounds) if r.traffic), None)
        cells = [number(last.traffic if last else {}, name) for name in _TOUCHED]
        if any(cell is not None for cell in cells):
            rows.append([case.name, *cells])
    return _without_empty(Table("", "", columns, rows))


def environment_table(result: ResultFile, cases: Sequence[Evidence]) -> Table:
    """What made the numbers: the run, the machine, the versions, and the ceilings that it measured."""
    run, ceilings = result.run, ceilings_of(cases)
    dirty = {True: ", with uncommitted changes", False: "", None: ""}[run.git_dirty]
    device, host = mapping(result.environment, "device"), mapping(result.environment, "host")
    rest = {key: value for key, value in result.environment.items() if key not in _TOLD_BY_THEMSELVES}
    rest["host"] = {key: value for key, value in host.items() if device.get(key) != value}
    facts: list[list[Any]] = [
        ["command", run.command],
        ["scenario", f"{run.source} ({run.scenario_hash})"],
        ["overrides", ", ".join(run.overrides) or None],
        ["started, finished", f"{run.started}, {plain(run.finished)}"],
        ["commit", f"{plain(run.git_sha)}{dirty}"],
        ["commit, note", run.git_note],
        ["membench, method", f"{run.membench_version}, {run.method_version}"],
        ["ceiling: matrix product", _rate(ceilings.matmul_flops_per_s, "FLOP/s")],
        ["ceiling: streams", _rate(ceilings.stream_bytes_per_s, "B/s")],
        ["ceiling: random rows, all arms", _rate(ceilings.random_row_bytes_per_s, "B/s")],
        *_flat(device, "device"),
        ["fingerprint", text(result.environment, "fingerprint")],
        *_flat(mapping(result.environment, "packages"), ""),
        *_flat(rest, ""),
    ]
    columns = [Column("", right=False), Column("", right=False)]
    return Table("", "", columns, [fact for fact in facts if fact[1] is not None])


def _rate(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value / 1e9:.4g} G{unit}"


def _flat(source: dict[str, Any], prefix: str, depth: int = 0) -> Iterator[list[Any]]:
    """Nested mappings as one level of facts; what lies deeper than any environment does is left out."""
    for key, value in source.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _flat(value, name, depth + 1)
        elif isinstance(value, bool):
            yield [name, "yes" if value else "no"]
        elif name.endswith(" bytes") and (size := number(source, key)) is not None:
            yield [name.removesuffix(" bytes"), f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"]
        elif isinstance(value, (str, int, float)):
            yield [name, value]
        elif isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
            yield [name, ", ".join(map(str, value))]


def _without_empty(table: Table) -> Table:
    kept = [i for i in range(len(table.columns)) if i == 0 or any(row[i] is not None for row in table.rows)]
    columns = [table.columns[i] for i in kept]
    return Table(table.title, table.caption, columns, [[row[i] for i in kept] for row in table.rows])
