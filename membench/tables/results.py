"""A result file as tables: what was compared, the answer, then every case."""

from collections import defaultdict
from typing import Any

from layers.spec.quantities import format_quantity
from membench.metrics import FLAG_ABOVE
from membench.records import Record, ResultFile
from membench.tables.render import Column, Table, plain

_GIB = 2**30


def result_tables(result: ResultFile) -> list[Table]:
    """What was compared and the answer first; then the arms with their budgets; then the measurements."""
    groups = _groups(result.cases)
    return [
        _answer_table(result, groups),
        _arms_table(result),
        *(_cases_table(title, records) for title, records in groups.items() if any(map(_step_ms, records))),
        *_trouble_table(result),
    ]


def _groups(records: list[Record]) -> dict[str, list[Record]]:
    """Records that may be ranked against each other: the same mode, optimizer, tokens, routing and swept keys.

    Where training steps ran with several optimizers there is one group more, of each arm at its best.
    """
    routings = sorted({_routing(r) for r in records if _routing(r)})
    groups: dict[str, list[Record]] = defaultdict(list)
    best: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        # dense layers are not routed: they belong beside every routing of the others
        for routing in [_routing(record)] if _routing(record) else routings or [""]:
            where = ", ".join(part for part in (f"{record.case.tokens} tokens a rank", routing, _swept(record)) if part)
            groups[f"{_step(record)}, {where}"].append(record)
            if record.case.optimizer is not None:
                arms = best[f"{record.case.mode}, each layer's best optimizer, {where}"]
                if _name(record) not in arms or _rank(record) < _rank(arms[_name(record)]):
                    arms[_name(record)] = record
    several = len({r.case.optimizer for r in records if r.case.optimizer}) > 1
    return {**groups, **({title: list(arms.values()) for title, arms in best.items()} if several else {})}


def _swept(record: Record) -> str:
    """Swept keys that every arm shares; tokens and routing are told by themselves."""
    point = record.planned.get("point", {})
    shared = {k: v for k, v in point.items() if not k.startswith(("arms.", "workload.tokens", "workload.routing"))}
    return ", ".join(f"{key} {value}" for key, value in shared.items())


def _name(record: Record) -> str:
    """The arm, with the values of the keys that were swept on it alone."""
    prefix = f"arms.{record.case.arm}."
    point = record.planned.get("point", {})
    own = [f"{key.removeprefix(prefix)} {value}" for key, value in point.items() if key.startswith(prefix)]
    return " ".join([record.case.arm, *own])


def _rank(record: Record) -> float:
    """What records are ordered by: the step's time; failed ones last."""
    return _step_ms(record) or float("inf")


def _step(record: Record) -> str:
    case = record.case
    return case.mode if case.optimizer is None else f"{case.mode} with {case.optimizer}"


def _routing(record: Record) -> str:
    case = record.case
    if case.layer.kind in ("dense", "external"):
        return ""
    return (
        f"routing zipf {case.routing.zipf_exponent:g}"
        if case.routing.kind == "zipf"
        else f"routing {case.routing.kind}"
    )


def _answer_table(result: ResultFile, groups: dict[str, list[Record]]) -> Table:
    rows = []
    for title, records in groups.items():
        ranked = sorted((r for r in records if _step_ms(r)), key=_rank)
        if not ranked:
            rows.append([title, "nothing was measured", None, None])
            continue
        best = ranked[0]
        others = ", ".join(f"{_name(r)} {_rank(r) / _rank(best):.2f}x" for r in ranked[1:])
        rows.append([title, _name(best), _step_ms(best), others])
    columns = [
        Column("compared at", right=False),
        Column("fastest step", right=False),
        Column("step ms", _short),
        Column("the others take", right=False),
    ]
    run, device = result.run, result.environment["device"]
    compared = f"{run.scenario}: {run.description}" if run.description else run.scenario
    return Table(f"{compared}\non {device['name']} ({device['cores']} cores)", _how(result), columns, rows)


def _how(result: ResultFile) -> str:
    run = result.run
    rounds = "1 round" if run.rounds == 1 else f"{run.rounds} rounds"
    if run.ranks == 1:
        return f"The whole layer on one device, {rounds}."
    link = "unknown" if run.link_gb_s is None else f"predicted for {run.link_gb_s:g} GB/s a rank"
    return (
        f"One rank's share of a {run.ranks}-way parallel layer (P {run.ranks_reason}), {rounds}. "
        f"A step is the measured compute of one rank plus its communication, which is {link}."
    )


def _step_ms(record: Record) -> float | None:
    """Compute and communication, compute alone where the link is unknown; None for a case that failed."""
    if record.status != "ok":
        return None
    step = record.metrics.get("step_ms")
    return step if step is not None else record.metrics.get("latency_ms_p50")


def _arms_table(result: ResultFile) -> Table:
    budgets = list(dict.fromkeys(name for r in result.cases for name in r.asked))
    columns = [
        Column("arm", right=False),
        Column("layer", right=False),
        Column("params", format_quantity),
        Column("active", format_quantity),
        Column("FLOPs/token", format_quantity),
        Column("stored GB", lambda v: _short(v and v / 1e9)),
    ]
    for name in budgets:
        columns += [Column(f"{name} asked", _four), Column("achieved", _four), Column("off %", _signed)]
    rows = {}
    for record in result.cases:
        planned = record.planned
        budget_cells: list[Any] = []
        for name in budgets:
            asked, achieved = record.asked.get(name), record.achieved.get(name)
            off = 100 * (achieved / asked - 1) if asked and achieved is not None else None
            budget_cells += [asked, achieved if asked else None, off]
        key = record.case.arm + record.case.layer.model_dump_json()
        rows[key] = [
            _name(record),
            ", ".join([record.case.layer.kind, *record.labels]),
            planned.get("params") or _counted(record, "params"),
            planned.get("active_params") or _counted(record, "active_params"),
            record.achieved.get("flops_per_token"),
            planned.get("stored_bytes") or _counted(record, "stored_bytes"),
            *budget_cells,
        ]
    return Table("Arms: budgets asked and achieved", "", columns, list(rows.values()))


def _counted(record: Record, name: str) -> Any:
    return next((r.cost[name] for r in record.rounds if r.cost), None)


def _cases_table(title: str, records: list[Record]) -> Table:
    columns = [
        Column("arm", right=False),
        Column("status", right=False),
        Column("latency ms", _short),
        Column("iqr", _short),
        Column("comm ms", _short),
        Column("step ms", _short),
        Column("vs dense", _ratio),
        Column("tokens/s", format_quantity),
        Column("MFU", _percent),
        Column("MBU", _percent),
        Column("GB/s", lambda v: _short(v and v / 1e9)),
        Column("U/L", _short),
        Column("load max/mean", _short),
        Column("J/token", _short),
        Column("peak GiB", lambda v: _short(v and v / _GIB)),
        Column("ref error", lambda v: "-" if v is None else f"{v:.1e}"),
        Column("ran", right=False),
    ]
    if not any(r.metrics.get("energy_j_per_token") for r in records):
        columns = [c for c in columns if c.header != "J/token"]
    dense = next((_step_ms(r) for r in records if r.case.layer.kind == "dense" and r.status == "ok"), None)
    rows = [_case_cells(columns, record, dense) for record in sorted(records, key=_rank)]
    return Table(title, "", columns, rows)


def _case_cells(columns: list[Column], record: Record, dense_ms: float | None) -> list[Any]:
    m, step = record.metrics, _step_ms(record)
    chosen = next((r.implementation.get("chosen") for r in record.rounds if r.implementation), None)
    cells = {
        "arm": _name(record),
        "status": record.status,
        "latency ms": m.get("latency_ms_p50"),
        "iqr": m.get("latency_ms_iqr"),
        "comm ms": m.get("communication_ms_predicted"),
        "step ms": m.get("step_ms"),
        "vs dense": step / dense_ms if step and dense_ms else None,
        "tokens/s": m.get("tokens_per_s"),
        "MFU": m.get("mfu"),
        "MBU": m.get("mbu"),
        "GB/s": m.get("dram_bytes_per_s"),
        "U/L": m.get("unique_per_lookup"),
        "load max/mean": m.get("expert_load_max_over_mean"),
        "J/token": m.get("energy_j_per_token"),
        "peak GiB": m.get("peak_allocated_bytes") or m.get("peak_process_bytes"),
        "ref error": m.get("reference_error"),
        "ran": plain(chosen),
    }
    return [cells[column.header] for column in columns]


def _trouble_table(result: ResultFile) -> list[Table]:
    """Cases that did not run, and what to distrust of those that did."""
    where: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for record in result.cases:
        for note in ([record.reason] if record.reason else []) + record.flags:
            case = record.case
            where[case.arm, record.status, note].append(f"{_step(record)} x{case.tokens}")
    if not where:
        return []
    rows = [[arm, status, note, ", ".join(cases)] for (arm, status, note), cases in where.items()]
    columns = [Column(header, right=False) for header in ("arm", "status", "note", "in")]
    return [Table("Notes", "", columns, rows)]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _four(value: float | None) -> str:
    return format_quantity(value, digits=4)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    """A utilization; one that cannot be true is marked, and the notes say why."""
    if value is None:
        return "-"
    return f"({100 * value:.0f} %?)" if value > FLAG_ABOVE else f"{100 * value:.0f} %"
