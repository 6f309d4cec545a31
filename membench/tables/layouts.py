"""The ways in which devices can share each layer as tables: at one number of devices, and over several."""

from collections.abc import Sequence
from typing import Any

from membench.planning.plan import Plan, PlannedLayout
from membench.tables.numbers import short
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table
from membench.words import how_many

_STEP = "Step: a roofline's compute, then communication; nothing overlaps, ranks are evenly loaded."


def layouts_table(plan: Plan) -> Table:
    """Memory, compute and communication of one device in each layout."""
    columns = [
        *_named(),
        Column("GB held", _giga, priority=2),
        Column("GB sent", _giga, priority=3),
        *(quantity(name) for name in ("predicted_ms", "communication_ms_predicted", "predicted_step_ms")),
        Column("not so, because", right=False, priority=3),
    ]
    rows = [
        [
            *_names(each),
            each.memory_bytes,
            each.sent_bytes,
            each.predicted_ms,
            each.communication_ms,
            each.step_ms,
            each.skipped,
        ]
        for each in plan.layouts
    ]
    return Table(f"Ways to share a layer, {plan.hardware}", f"{plan.network}. {_STEP}", columns, rows)


def curve_table(plans: Sequence[Plan]) -> Table:
    """Of one scenario, the step of each layout at each number of devices; a dash where it is not possible."""
    steps: dict[tuple[Any, ...], dict[int, float | None]] = {}
    for plan in reversed(plans):  # the most devices have the most ways
        for each in plan.layouts:
            steps.setdefault(tuple(_names(each)), {})[plan.ranks] = each.step_ms
    devices = [plan.ranks for plan in plans]
    columns = [*_named(), *(Column(how_many(count, "device"), short) for count in devices)]
    rows = [[*names, *(of.get(count) for count in devices)] for names, of in steps.items()]
    first = plans[0]
    caption = f"Predicted ms of a step. {_STEP} A dash: it does not fit, or cannot be cut so."
    return Table(f"{first.scenario}: {first.description}".removesuffix(": "), caption, columns, rows)


def _named() -> list[Column]:
    return [Column("arm", right=False), Column("mode", right=False), Column("shared by", right=False)]


def _names(each: PlannedLayout) -> list[Any]:
    swept = "".join(f", {key.split('.')[-1]} {value}" for key, value in each.point.items())
    mode = each.mode if each.optimizer is None else f"{each.mode} {each.optimizer}"
    return [each.arm, f"{mode}{swept}", each.layout]


def _giga(value: float | None) -> str:
    return short(None if value is None else value / 1e9)
