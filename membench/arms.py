"""One arm of a comparison: a kind of layer, the dimensions given for it and its budgets."""

import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from layers.spec import KINDS, ExternalSpec, Spec
from membench.dimensions import with_placeholders
from membench.errors import UsageError, shown, suggestion, usage_error
from membench.targets import Budgets

ENTRY_POINT_GROUP = "membench.layers"
_ARM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Arm:
    """An arm as the scenario states it; what it leaves open is for the budgets to solve.

    ``given`` are validated values of the kind's config. ``budgets`` is None where the arm
    does not say ``budgets:`` and takes the scenario's.
    """

    name: str
    kind: type[Spec]
    given: dict[str, Any]
    budgets: Budgets | None


def entry_point_layers() -> dict[str, str]:
    """Layers that installed packages offer: name -> ``package.module:factory``."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def arm_from(name: str, raw: Any, defaults: dict[str, Any]) -> Arm:
    """An arm out of its YAML mapping; ``defaults`` are the scenario's model_dim and dtype.

    Raises:
        UsageError: an unknown layer or key, or a value that makes no sense.
    """
    key = f"arms.{name}"
    if not _ARM_NAME.fullmatch(name):
        raise UsageError("an arm's name starts with a letter, then letters, digits, _ or -", key=key)
    if not isinstance(raw, dict):
        raise UsageError(f"should be a mapping such as {{layer: dense, ffn_hidden: 14336}}, not {shown(raw)}", key=key)
    values = dict(raw)
    kind, found = _kind_of(values.pop("layer", None), f"{key}.layer")
    budgets = _budgets_from(values.pop("budgets"), f"{key}.budgets") if "budgets" in values else None
    if "kind" in values or "factory" in values:
        raise UsageError("the kind of a layer is said by layer:", key=key)
    given = {**defaults, **values, **found}
    if "model_dim" not in given:
        raise UsageError("is missing; give it here or for all arms at the top", key=f"{key}.model_dim")
    try:
        probe = with_placeholders(kind, given)
    except ValidationError as error:
        raise usage_error(error, kind, key, hidden=("kind", "factory")) from None
    return Arm(name, kind, {field: getattr(probe, field) for field in given}, budgets)


def _kind_of(layer: Any, key: str) -> tuple[type[Spec], dict[str, str]]:
    """The config class of ``layer:``, and what the name itself says of it."""
    if layer is None:
        raise UsageError(f"is missing; {suggestion('', KINDS)}", key=key)
    if not isinstance(layer, str):
        raise UsageError(f"should be the name of a layer, not {shown(layer)}", key=key)
    if layer in KINDS:
        return KINDS[layer], {}
    if ":" in layer:
        return ExternalSpec, {"factory": _factory(layer, key)}
    outside = entry_point_layers()
    if layer in outside:
        return ExternalSpec, {"factory": outside[layer]}
    known = suggestion(layer, [*KINDS, *outside])
    raise UsageError(f"unknown layer {layer!r}; {known} (a layer of your own: package.module:factory)", key=key)


def _factory(layer: str, key: str) -> str:
    try:
        return ExternalSpec(model_dim=1, factory=layer).factory
    except ValidationError as error:
        problem = usage_error(error, ExternalSpec).problem
        raise UsageError(problem, key=key) from None


def _budgets_from(raw: Any, key: str) -> Budgets:
    try:
        return Budgets.model_validate(raw, strict=True)
    except ValidationError as error:
        raise usage_error(error, Budgets, key) from None
