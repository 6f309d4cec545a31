"""What a scenario measures, one by one: every arm of every point in every mode, and how ranks share its layer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from membench.errors import UsageError
from membench.layers.spec import Mode, Optimizer
from membench.learning.shared import check_shared
from membench.planning.fit import Work
from membench.planning.solved_arms import SolvedArm
from membench.scenario.arms import SHARED_LEVELS
from membench.scenario.scenario import Point, Scenario


def works_of(scenario: Scenario, solved: list[dict[str, SolvedArm]], sharing: int | None) -> Iterator[Work]:
    """Every arm of every point in every mode, less what the scenario excludes; ``sharing`` ranks share each layer."""
    for whole, arms in zip(scenario.points, solved, strict=True):
        point = whole
        if sharing is not None and scenario.level == "training":
            point = replace(whole, workload=whole.workload.divided(sharing))
        for arm in arms.values():
            shared_by = None if sharing is None else _shared_by(point, arm, sharing)
            for mode in point.workload.modes:
                for optimizer in _optimizers(point, arm.name, mode):
                    if not scenario.excludes(point, arm=arm.name, mode=mode, optimizer=optimizer):
                        yield Work(point, arm, mode, optimizer, scenario.level, scenario.fit.in_parts, shared_by)


def _shared_by(point: Point, arm: SolvedArm, ranks: int) -> Any:
    """How so many ranks share an arm's layer: as it says, else in the way that is its kind's default.

    Raises:
        UsageError: there is no such way, or the layer is from outside.
    """
    key = f"arms.{arm.name}.shared_by"
    if not arm.spec.COUNTED:
        raise UsageError("a layer from outside is not shared by ranks: leave the arm out", key=key)
    try:
        return arm.spec.shared_by(point.arms[arm.name].shared_by, ranks).name
    except ValueError as error:
        stated = point.arms[arm.name]
        where = "" if stated.whole is None else " in a model"
        raise UsageError(f"a {stated.kind.model_fields['kind'].default} layer{where} {error}", key=key) from None


def _optimizers(point: Point, arm: str, mode: Mode) -> list[Optimizer | None]:
    """Each a case of its own: all of the workload's, or the one that the arm is trained by."""
    if mode != "train_step":
        return [None]
    training = point.arms[arm].training
    return [training.optimizer] if training else [*point.workload.optimizers]


def sharing_ranks(scenario: Scenario, devices: int, processes: int | None) -> int | None:
    """How many ranks share every layer of a scenario; None where none is shared.

    Raises:
        UsageError: it is not said, or what the scenario measures is not shared.
    """
    stated = [name for point in scenario.points for name, arm in point.arms.items() if arm.shared_by]
    if processes is None and not stated:
        return None
    if scenario.level not in SHARED_LEVELS:
        what = "only layers, and models that are trained, are shared by processes"
        raise UsageError(f"{what}, this is {scenario.level}: leave out --nproc, or torchrun", key="level")
    ranks = processes or (devices if devices > 1 else scenario.fit.ranks)
    if not isinstance(ranks, int):
        key = f"arms.{stated[0]}.shared_by"
        raise UsageError("ranks share this layer: say how many with --nproc P, or in fit.ranks for a plan", key=key)
    if scenario.level == "training":
        _check_trained_together(scenario, ranks)
    return ranks


def _check_trained_together(scenario: Scenario, ranks: int) -> None:
    """Refuses what so many processes that train one model cannot do."""
    if (scenario.measure.at_once or 1) > 1:
        problem = f"should be 1, not {scenario.measure.at_once}: {ranks} processes train one model after the other"
        raise UsageError(problem, key="measure.at_once")
    for point in scenario.points:
        for arm in point.arms.values():
            if arm.training is not None:
                check_shared(arm.training, ranks)


def pinned_ranks(scenario: Scenario) -> int:
    """The ranks that cases have which a latency budget reads; P is not known yet where it is chosen by what fits."""
    return scenario.fit.ranks if isinstance(scenario.fit.ranks, int) else 1
