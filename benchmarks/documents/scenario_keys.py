"""Every key of a scenario as tables, from the models that read it: key, what it takes, its default, what it means."""

import math
from collections.abc import Collection, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from membench.case import RoutingConfig
from membench.layers.spec import KINDS, OPERATORS, PRESETS, ExternalSpec, ModelShape, Spaced, Spec
from membench.layers.spec.quantities import parse_num_keys
from membench.learning.settings import Stop, Training, Tuning
from membench.learning.tasks import TASKS
from membench.scenario.budgets import Budgets, Latency, MovedBytes
from membench.scenario.scenario import Scenario
from membench.scenario.settings import Fit, Limits, Measure, Workload

# Sections with models of their own, by the key that they stand under; ARM stands for an arm's name.
SECTIONS: dict[str, type[BaseModel]] = {
    "": Scenario,
    "model": ModelShape,
    "budgets": Budgets,
    "budgets.moved_bytes": MovedBytes,
    "budgets.latency_ms": Latency,
    "arms.ARM.at": Spaced,
    "workload": Workload,
    "workload.routing": RoutingConfig,
    "training": Training,
    "training.stop": Stop,
    "training.tuning": Tuning,
    "fit": Fit,
    "measure": Measure,
    "limits": Limits,
}
ARMS: dict[str, type[Spec]] = {**KINDS, "package.module:factory": ExternalSpec, **OPERATORS}
# What is no key of an arm by itself: its layer: or op: says it, or it is told once, for all kinds.
NOT_OF_ARMS = ("kind", "factory", "model_dim", "dtype")
NOT_STATED = ("trace_sha256",)  # a plan looks at the trace
_HEAD = "| key | takes | default | meaning |\n| --- | --- | --- | --- |\n"
_PRESET_ROW = "| `model.preset` | {names} | | the shape of this name; keys beside it change it |\n"
_LEAST_POWER = 12  # limits from 2^12 on are written as powers


def sections_part() -> str:
    """A table for each section; the whole file's first."""
    return "\n\n".join(_section(key, model) for key, model in SECTIONS.items())


def arms_part() -> str:
    """A table for each kind of layer and each operator."""
    titled = {f"`{'op' if name in OPERATORS else 'layer'}: {name}`": kind for name, kind in ARMS.items()}
    return "\n\n".join(f"### {title}\n\n{_HEAD}{_rows(kind, '', NOT_OF_ARMS)}" for title, kind in titled.items())


def tasks_part() -> str:
    """A table for each task."""
    return "\n\n".join(
        f"### `task.kind: {name}`\n\n{_HEAD}{_rows(kind, '', ('kind',))}" for name, kind in TASKS.items()
    )


def _section(key: str, model: type[BaseModel]) -> str:
    head = _HEAD
    if model is ModelShape:
        head += _PRESET_ROW.format(names=" \\| ".join(f"`{name}`" for name in PRESETS))
    title, prefix = (f"`{key}:`", f"{key}.") if key else ("The file", "")
    return f"### {title}\n\n{head}{_rows(model, prefix, NOT_STATED)}"


def _rows(model: type[BaseModel], prefix: str, left_out: Collection[str]) -> str:
    fields = {name: field for name, field in model.model_fields.items() if name not in left_out}
    return "\n".join(
        f"| `{prefix}{name}` | {takes(each.annotation, each.metadata)} | {default(model, name)} | {each.description} |"
        for name, each in fields.items()
    )


def default(model: type[BaseModel], name: str) -> str:
    """What a key is where it is left out: needed, a value, or empty where its meaning says it; what can solve it."""
    field = model.model_fields[name]
    value = None if field.default_factory else field.default
    if field.is_required():
        told = "needed without a preset" if model is ModelShape else "needed"
    elif value in (None, "", {}) or isinstance(value, BaseModel):
        told = ""
    else:
        told = f"`{_written(value)}`"
    free: dict[str, Any] = getattr(model, "FREE", {})
    solved = [f"`{budget}`" for budget, dimensions in free.items() if name in {each.name for each in dimensions}]
    return f"{told}; or by {', '.join(solved)}" if solved else told


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def takes(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The type of a key in words, with its limits; ``metadata`` is what pydantic keeps of them."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return takes(parts[0], [*parts[1:], *metadata])
    if origin is Literal:
        return " \\| ".join(f"`{each}`" for each in parts)
    if origin in (Union, UnionType):
        return _one_of([part for part in parts if part is not NoneType], metadata)
    if origin in (list, tuple):
        return f"list of {takes(parts[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping, below"
    if annotation is bool:
        return "`true` \\| `false`"
    if annotation is str:
        return "text"
    if any(getattr(each, "func", None) is parse_num_keys for each in metadata):
        return "key count: a square such as 16M or 4096^2"
    return f"whole number{_limits(metadata, whole=True)}" if annotation is int else f"number{_limits(metadata)}"


def _one_of(parts: list[Any], metadata: Sequence[Any]) -> str:
    """Several types; one is what is left of a type beside null, which stands for a key left out."""
    if set(parts) == {float, str}:
        return "quantity such as 352.3M or 18GB, or the name of an arm"
    return " or ".join(takes(part, metadata) for part in parts)


def _limits(metadata: Sequence[Any], *, whole: bool = False) -> str:
    low, high = "", ""
    for each in [limit for one in metadata for limit in (one.metadata if isinstance(one, FieldInfo) else [one])]:
        if isinstance(each, Gt):
            low = " from 1" if whole and each.gt == 0 else f" above {_limit(each.gt)}"
        elif isinstance(each, Ge):
            low = f" from {_limit(each.ge)}"
        elif isinstance(each, Le):
            high = f" to {_limit(each.le)}"
    return low + high


def _limit(number: Any) -> str:
    if number >= 2**_LEAST_POWER and math.log2(number).is_integer():
        exponent = round(math.log2(number))
        return f"2^{exponent}" if number == 2**exponent else f"2^{exponent} - {2**exponent - number}"
    return f"{number:g}" if isinstance(number, float) else f"{number}"
