"""A plan as two tables: what the arms are, and what each case would need and take."""

from typing import Any

from membench.planning.plan import Plan, PlannedCase
from membench.tables.layouts import layouts_table
from membench.tables.numbers import budget
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table, plain
from membench.words import how_many

_ARM_DIMENSIONS = (
    "ffn_hidden",
    "num_keys",
    "heads",
    "key_dim",
    "num_experts",
    "expert_hidden",
    "top_k",
    "shared_hidden",
    "companion_hidden",
)
_PARTS = {
    "weights": "weights_bytes",
    "gradients": "gradient_bytes",
    "optimizer": "optimizer_bytes",
    "activations": "saved_activation_bytes",
    "kv_cache": "kv_cache_bytes",
    "host": "host_bytes",
}
_SHOWN_WHERE_HELD = ("kv_cache", "host")


def plan_tables(plan: Plan) -> list[Table]:
    """The arms with their budgets, then the cases with memory and predicted time; or how they are trained."""
    trained = any(planned.learning for planned in plan.cases)
    tables = [_arms_table(plan), _runs_table(plan) if trained else _cases_table(plan)]
    return [*tables, layouts_table(plan)] if plan.layouts else tables


def _arms_table(plan: Plan) -> Table:
    swept = _swept(plan)
    columns = [
        Column("arm", right=False),
        *(Column(key.removeprefix("every_arm."), right=False) for key in swept),
        Column("dimensions", right=False, priority=3),
        quantity("params"),
        quantity("params_asked"),
        quantity("active_params", priority=4),
        quantity("flops_per_token", priority=2),
        quantity("flops_per_token_asked"),
        Column("notes", right=False, priority=4),
    ]
    rows: dict[str, list[Any]] = {}
    for planned in plan.cases:
        layer = planned.case.layer
        rows.setdefault(
            f"{planned.case.arm} {layer.model_dump_json()}",
            [
                planned.case.arm,
                *(_swept_value(planned.point.get(key)) for key in swept),
                dimensions(layer.model_dump()),
                planned.achieved.get("params"),
                planned.asked.get("params"),
                planned.active_params,
                planned.achieved.get("flops_per_token"),
                planned.asked.get("flops_per_token"),
                "; ".join([*planned.labels, *planned.notes, *_other_budgets(planned)]),
            ],
        )
    shrunk = "" if plan.scale == 1 else f" Parameters scaled by {plan.scale:g} to fit."
    return Table(
        f"{plan.scenario}: {plan.description}".removesuffix(": "), shrunk.strip(), columns, list(rows.values())
    )


def _cases_table(plan: Plan) -> Table:
    swept = _swept(plan)
    held = {part for planned in plan.cases for part, size in (planned.memory_bytes or {}).items() if size}
    parts = [part for part in _PARTS if part not in _SHOWN_WHERE_HELD or part in held]
    columns = [
        Column("arm", right=False),
        Column("mode", right=False),
        *(Column(key.removeprefix("every_arm."), right=False) for key in swept),
        Column("tokens", priority=2),
        *(quantity(name) for name in ("flops_of_step", "dram_bytes_of_step", *(_PARTS[part] for part in parts))),
        *(quantity(name) for name in ("predicted_ms", "communication_ms_predicted", "predicted_step_ms")),
        Column("runs", right=False, priority=1 if any(each.skipped or each.parts for each in plan.cases) else 5),
    ]
    rows = [_case_row(swept, parts, each) for each in plan.cases]
    return Table("Cases, one rank of each", _caption(plan), columns, rows)


def _runs_table(plan: Plan) -> Table:
    """Of level training: what a run of each arm is, and how many there are."""
    swept = _swept(plan)
    columns = [
        Column("arm", right=False),
        *(Column(key, right=False) for key in swept),
        *(quantity(name) for name in ("sequences", "steps", "tokens_trained", "training_flops")),
        Column("trials"),
        Column("seeds"),
        Column("weights", right=False, priority=4),
        Column("runs", right=False, priority=1 if any(each.skipped for each in plan.cases) else 5),
    ]
    rows = []
    for each in plan.cases:
        known = each.learning
        assert known is not None
        rows.append(
            [
                each.case.arm,
                *(_swept_value(each.point.get(key)) for key in swept),
                each.case.sequences * each.case.ranks,
                known.steps,
                known.tokens,
                known.flops,
                known.trials,
                known.seeds,
                each.case.layer.dtype,
                _runs(each),
            ]
        )
    runs = sum(each.learning.trials + each.learning.seeds for each in plan.cases if each.learning and not each.skipped)
    stops = dict.fromkeys(each.case.training.stop.in_words for each in plan.cases if each.case.training)
    trials = "trials choose an arm's rates (more, where the best lies on an edge of the grid; all arms get as many), "
    tuned = any(each.learning and each.learning.trials for each in plan.cases)
    caption = (
        f"{how_many(runs, 'run')}: {trials if tuned else ''}seeds are the result. Each stops at {', or '.join(stops)}."
    )
    return Table("Runs of each case", caption, columns, rows)


def _case_row(swept: list[str], parts: list[str], planned: PlannedCase) -> list[Any]:
    case, memory = planned.case, planned.memory_bytes or {}
    compute_ms, communication_ms = planned.predicted_ms, planned.communication_ms
    total_ms = None if compute_ms is None or communication_ms is None else compute_ms + communication_ms
    return [
        case.arm,
        case.mode if case.optimizer is None else f"{case.mode} {case.optimizer}",
        *(_swept_value(planned.point.get(key)) for key in swept),
        case.tokens,
        planned.flops,
        planned.bytes_dram_expected,
        *(memory.get(part) for part in parts),
        compute_ms,
        communication_ms,
        total_ms,
        _runs(planned),
    ]


def _runs(planned: PlannedCase) -> str:
    if planned.skipped is not None:
        return f"no: {planned.skipped}"
    return "in parts" if planned.parts else "yes"


def _caption(plan: Plan) -> str:
    link = plan.network or "unknown"
    memory = "unknown" if plan.available_bytes is None else f"{plan.available_bytes / 1e9:.1f} GB"
    hardware = plan.hardware or "this machine, whose peaks are measured by a run"
    return (
        f"P = {how_many(plan.ranks, 'rank')} ({plan.ranks_reason}), memory of one {memory}, link {link}. "
        f"Hardware: {hardware}. Rows read and experts used are expectations; time is a roofline's."
    )


def _swept(plan: Plan) -> list[str]:
    """The swept keys that no other column shows."""
    keys = dict.fromkeys(key for planned in plan.cases for key in planned.point)
    return [key for key in keys if key != "workload.tokens"]


def _swept_value(value: Any) -> str:
    if isinstance(value, dict):
        if "kind" in value:
            return value["kind"]
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return plain(value)


def dimensions(layer: dict[str, Any]) -> str:
    """The dimensions that make the size of a layer; a key count as the square it is. Of a model its layer's."""
    inside = layer.get("layer") or layer.get("ffn")
    if inside:
        return f"{layer['kind']} with {dimensions(inside)}"
    parts = [layer["kind"]]
    for name in _ARM_DIMENSIONS:
        if value := layer.get(name):
            parts.append(f"{name} {round(value**0.5)}²" if name == "num_keys" else f"{name} {value}")
    return ", ".join(parts)


def _other_budgets(planned: PlannedCase) -> list[str]:
    """Budgets that have no column, asked and achieved."""
    return [
        f"{name} {budget(name)(planned.achieved[name])} (asked {budget(name)(asked)})"
        for name, asked in planned.asked.items()
        if name not in ("params", "flops_per_token")
    ]
