"""What level training adds to a scenario: the task, and how its arms are trained."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from membench.errors import UsageError, shown, suggestion, usage_error
from membench.learning.settings import Training
from membench.learning.tasks import TASKS, AnyTask

TRAINING_KEY = "training"  # of an arm too, beside its layer's own
# What no arm has of its own: the budget, the data and the way in which rates are chosen are the same for all.
OF_ALL_ARMS = ("stop", "sequences", "evaluations", "asked", "seeds", "tuning")
_CHOSEN = ("learning_rate", "table_learning_rate")  # by a grid, where there is one
_ROUNDS = ("workload.seed", "training.seeds")
_Config = TypeVar("_Config", bound=BaseModel)


def task_from(raw: Mapping[str, Any]) -> AnyTask:
    """The task of ``task:``.

    Raises:
        UsageError: there is no such task, or a key or a value makes no sense.
    """
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in TASKS:
        problem = "is missing" if kind is None else f"no task is {shown(kind)}"
        raise UsageError(f"{problem}; {suggestion(kind or '', TASKS)}", key="task.kind")
    return cast(AnyTask, _read(TASKS[kind], raw, "task"))


def training_from(raw: Mapping[str, Any]) -> Training:
    """How all arms are trained that do not say otherwise.

    Raises:
        UsageError: a key or a value of ``training:`` makes no sense.
    """
    return _read(Training, raw, TRAINING_KEY)


def training_of_arm(common: Mapping[str, Any], own: Any, key: str) -> Training:
    """How one arm is trained: as all are, but for what it states.

    Raises:
        UsageError: it states what is the same for every arm, or what makes no sense.
    """
    if not isinstance(own, dict):
        raise UsageError(f"should be a mapping such as {{learning_rate: 0.01}}, not {shown(own)}", key=key)
    for name in own:
        if name in OF_ALL_ARMS:
            raise UsageError("is the same for every arm: say it in training:", key=f"{key}.{name}")
    found = _read(Training, {**common, **own}, key)
    tuned = [] if found.tuning is None else [name for name in _CHOSEN if getattr(found.tuning, f"{name}s")]
    for name in tuned:
        if name in own:
            raise UsageError("is chosen by training.tuning, the same for every arm: leave it out", key=f"{key}.{name}")
    return found


def check_swept(keys: Iterable[str]) -> None:
    """Refuses to sweep what makes no case another: all points but one would be left out.

    Raises:
        UsageError: one of the keys does.
    """
    for key in keys:
        if key in _ROUNDS:
            problem = "cannot be swept at level training, where seeds are the rounds of a case; say training.seeds: 10"
            raise UsageError(problem, key=f"axes.{key}")


def _read(kind: type[_Config], raw: Mapping[str, Any], key: str) -> _Config:
    """A config from plain data; as JSON, whose lists are tuples."""
    try:
        return kind.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise usage_error(error, kind, key) from None
