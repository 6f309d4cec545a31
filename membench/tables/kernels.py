"""A plan's steps on a GPU as tables: each case's stages beside their floors; and what to do next."""

from collections.abc import Iterator
from typing import Any

from membench.planning.plan import Plan, PlannedCase
from membench.planning.predicted_step import PredictedStage, PredictedStep
from membench.results.profile import StageKey
from membench.tables.numbers import short
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table
from membench.words import how_many


def kernels_tables(plan: Plan) -> list[Table]:
    """A table for each case that was predicted."""
    return [_table(plan, planned, step) for planned, step in _predicted(plan)]


def next_kernels(plan: Plan) -> list[str]:
    """For each case the stage with the most time above its floor, and its longest kernels."""
    lines = []
    for planned, step in _predicted(plan):
        if (stage := step.next_stage) is None:
            continue
        kernels = ", ".join(f"{each.name} {short(each.predicted_ms)} ms ({each.limit})" for each in stage.kernels[:3])
        above = f"{_label(stage)} is predicted {short(stage.excess_ms)} ms above its floor"
        lines.append(f"Next, {_named(planned)}: {above}: {kernels}")
    return lines


def _predicted(plan: Plan) -> Iterator[tuple[PlannedCase, PredictedStep]]:
    return ((planned, planned.kernels) for planned in plan.cases if planned.kernels is not None)


def _table(plan: Plan, planned: PlannedCase, step: PredictedStep) -> Table:
    columns = [
        Column("stage", right=False),
        *(quantity(name) for name in ("kernel_launches", "moved_bytes")),
        quantity("flops", priority=2),
        *(quantity(name) for name in ("device_ms",)),
        *(quantity(name, priority=1) for name in ("floor_ms", "times_floor")),
        Column("longest kernels", right=False, priority=4),
    ]
    floor_ms = sum(stage.floor_ms or 0.0 for stage in step.stages)
    total = [
        "all",
        step.launches,
        sum(stage.moved_bytes for stage in step.stages),
        sum(stage.flops for stage in step.stages),
        step.device_ms,
        floor_ms,
        step.device_ms / floor_ms if floor_ms else None,
        "",
    ]
    return Table(
        f"{_named(planned)}, {how_many(planned.case.tokens, 'token')}, predicted on {plan.hardware}",
        f"The host takes {short(step.host_ms)} ms to launch it, eager; the step is the longer of both, "
        f"{short(step.step_ms)} ms. Floors are a roofline's. No GPU has confirmed these times.",
        columns,
        [*map(_row, step.stages), total],
    )


def _row(stage: PredictedStage) -> list[Any]:
    kernels = ", ".join(f"{each.name} {short(each.predicted_ms)} {each.limit}" for each in stage.kernels[:2])
    return [
        _label(stage),
        stage.launches,
        stage.moved_bytes,
        stage.flops,
        stage.predicted_ms,
        stage.floor_ms,
        stage.times_floor,
        kernels,
    ]


def _label(stage: PredictedStage) -> str:
    return StageKey(stage.name, stage.backward).label


def _named(planned: PlannedCase) -> str:
    """The arm, the mode, and what tells points apart."""
    case = planned.case
    swept = [f"{key.split('.')[-1]} {value}" for key, value in planned.point.items() if key != "workload.tokens"]
    return ", ".join([" ".join(filter(None, [case.arm, case.mode, case.optimizer])), *swept])
