"""One arm of a comparison: a kind of layer or an operator, the dimensions given for it and its budgets."""

import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from pydantic import ValidationError

from membench.errors import UsageError, shown, suggestion, usage_error
from membench.layers.spec import KINDS, OPERATORS, SHARED_BY, ExternalSpec, ModelShape, SharedBy, Spec
from membench.learning.settings import Training
from membench.scenario.budgets import Budgets
from membench.scenario.dimensions import with_placeholders
from membench.scenario.learning import TRAINING_KEY, training_of_arm
from membench.scenario.wholes import WHOLE_KEYS, WHOLE_LEVELS, Whole, WholeLevel, whole_from

ENTRY_POINT_GROUP = "membench.layers"
# What an arm compares: an operator, a layer, or a layer in the block or the model that it makes.
Level = Literal["layer", "op", "block", "model", "training"]
_NAMED_BY: dict[Level, str] = {
    "layer": "layer",
    "op": "op",
    "block": "layer",
    "model": "layer",
    "training": "layer",
}
_NAMES = tuple(dict.fromkeys(_NAMED_BY.values()))  # the keys by which arms name what they compare
_SAID = {"layer": "a layer", "op": "an operator"}
SHARED_KEY = "shared_by"
SHARED_LEVELS: tuple[Level, ...] = ("layer", "training")  # at which processes can share what is measured
_MAX_NAME_CHARS = 64
_ARM_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_-]{{0,{_MAX_NAME_CHARS - 1}}}")


@dataclass(frozen=True)
class Arm:
    """An arm as the scenario states it; what it leaves open is for the budgets to solve.

    ``given`` are validated values of the kind's config. ``budgets`` is None where the arm
    does not say ``budgets:`` and takes the scenario's. ``whole`` is what the layer stands in, if it is measured in
    more than itself; ``training`` how it is trained, at level training; ``shared_by`` how ranks share it, if it says.
    """

    name: str
    kind: type[Spec]
    given: dict[str, Any]
    budgets: Budgets | None
    whole: Whole | None = None
    training: Training | None = None
    shared_by: SharedBy | None = None

    def around(self, layer: Spec) -> Spec:
        """What is measured: the layer, or the block or the model with it."""
        return layer if self.whole is None else self.whole.around(layer)


def entry_point_layers() -> dict[str, str]:
    """Layers that installed packages offer: name -> ``package.module:factory``."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def arm_from(
    name: str,
    raw: Any,
    every_arm: dict[str, Any],
    defaults: dict[str, Any],
    level: Level,
    shape: ModelShape | None = None,
    training: dict[str, Any] | None = None,
) -> Arm:
    """An arm out of its YAML mapping.

    Args:
        every_arm: the scenario's section of that name: what arms take that do not state it themselves.
        defaults: the scenario's model_dim and dtype.
        shape: of the model, at levels block, model and training.
        training: the scenario's section of that name, at level training.

    Raises:
        UsageError: an unknown layer, operator or key, or a value that makes no sense.
    """
    key = f"arms.{name}"
    if not _ARM_NAME.fullmatch(name):
        problem = "an arm's name starts with a letter, then letters, digits, _ or -"
        if len(name) > _MAX_NAME_CHARS:
            problem = f"an arm's name has at most {_MAX_NAME_CHARS} characters, not {len(name)}"
        raise UsageError(problem, key=key)
    if not isinstance(raw, dict):
        raise UsageError(f"should be a mapping such as {{layer: dense, ffn_hidden: 14336}}, not {shown(raw)}", key=key)
    values, shared = dict(raw), dict(every_arm)
    kind, found = _kind_of(values, shared, key, level)
    whole = None
    if level in WHOLE_LEVELS:
        assert shape is not None
        whole = _whole_of(kind, level, shape, values, shared, key)
    trained = None
    if training is not None:
        trained = training_of_arm(training, values.pop(TRAINING_KEY, {}), f"{key}.{TRAINING_KEY}")
    shared_by = _shared_by(kind, level, values, shared, key)
    budgets = _budgets_from(values.pop("budgets"), f"{key}.budgets") if "budgets" in values else None
    if "kind" in values or "factory" in values:
        raise UsageError(f"the kind of an arm is said by {_NAMED_BY[level]}:", key=key)
    known = {field: value for field, value in {**defaults, **shared}.items() if field in kind.model_fields}
    given = {**known, **values, **found}
    if "model_dim" in kind.model_fields and "model_dim" not in given:
        raise UsageError("is missing; give it here or for all arms at the top", key=f"{key}.model_dim")
    try:
        probe = with_placeholders(kind, given)
    except ValidationError as error:
        wrong = usage_error(error, kind, key, hidden=("kind", "factory"))
        field = wrong.key.removeprefix(f"{key}.")
        place = f"every_arm.{field}" if field in shared and field not in values else wrong.key
        raise UsageError(wrong.problem, key=place) from None
    return Arm(name, kind, {field: getattr(probe, field) for field in given}, budgets, whole, trained, shared_by)


def _whole_of(
    kind: type[Spec],
    level: WholeLevel,
    shape: ModelShape,
    values: dict[str, Any],
    shared: dict[str, Any],
    key: str,
) -> Whole:
    """What an arm's layer stands in; ``at`` and ``pool`` are taken out of what the arm and all arms state."""
    if kind is ExternalSpec:
        raise UsageError(f"a layer from outside is compared at level layer, not {level}", key=f"{key}.layer")
    for section, where in ((values, key), (shared, "every_arm")):
        if "model_dim" in section:
            raise UsageError("is the model's: say it in model:", key=f"{where}.model_dim")
    stated, places = {}, {}
    for section, where in ((shared, "every_arm"), (values, key)):
        for name in WHOLE_KEYS:
            if name in section:
                stated[name], places[name] = section.pop(name), f"{where}.{name}"
    if stated.get("pool") == "shared" and not kind.SHARES_A_POOL:
        if places["pool"] != "every_arm.pool":
            problem = "shared is for memory and memory_plus: other layers have no table to share; leave it out"
            raise UsageError(problem, key=places["pool"])
        del stated["pool"]
    return whole_from(level, shape, stated, places)


def _shared_by(
    kind: type[Spec], level: Level, values: dict[str, Any], shared: dict[str, Any], key: str
) -> SharedBy | None:
    """How ranks share an arm's layer, taken out of what it states or of what all share."""
    common = shared.pop(SHARED_KEY, None)
    place = f"{key}.{SHARED_KEY}" if SHARED_KEY in values else f"every_arm.{SHARED_KEY}"
    named = values.pop(SHARED_KEY, common)
    if named is None:
        return None
    if level not in SHARED_LEVELS or kind is ExternalSpec:
        what = f"layers of ours at levels {' and '.join(SHARED_LEVELS)}"
        raise UsageError(f"is for {what}, this is {'from outside' if level == 'layer' else level}", key=place)
    if named not in SHARED_BY:
        raise UsageError(f"no layer is shared by {shown(named)}; {suggestion(named, SHARED_BY)}", key=place)
    return named


def check_every_arm(every_arm: dict[str, Any], arms: dict[str, Arm]) -> None:
    """Refuses keys of ``every_arm:`` that no arm has: they would be given to nobody."""
    known = {field for arm in arms.values() for field in arm.kind.model_fields} - {"kind", "factory"} | {SHARED_KEY}
    if any(arm.whole is not None for arm in arms.values()):
        known |= {*WHOLE_KEYS}
    for key in every_arm:
        if key not in known and key not in _NAMES:
            raise UsageError(f"no arm has this key; {suggestion(key, known)}", key=f"every_arm.{key}")


def _kind_of(
    values: dict[str, Any], shared: dict[str, Any], key: str, level: Level
) -> tuple[type[Spec], dict[str, str]]:
    """What an arm names, taken out of what it states or of what all share: a config class, and what the name says."""
    name = _NAMED_BY[level]
    for section, where in ((values, key), (shared, "every_arm")):
        for other in _NAMES:
            if other != name and other in section:
                problem = f"is for scenarios of level {other}; at level {level} an arm says {name}:"
                raise UsageError(problem, key=f"{where}.{other}")
    common = shared.pop(name, None)
    place = f"every_arm.{name}" if name not in values and common is not None else f"{key}.{name}"
    named, known = values.pop(name, common), KINDS if name == "layer" else OPERATORS
    if named is None:
        raise UsageError(f"is missing; {suggestion('', known)}", key=place)
    if not isinstance(named, str):
        raise UsageError(f"should be the name of {_SAID[name]}, not {shown(named)}", key=place)
    if named in known:
        return known[named], {}
    return _operator(named, place) if name == "op" else _layer(named, place)


def _operator(named: str, key: str) -> tuple[type[Spec], dict[str, str]]:
    """Refuses what is no operator."""
    if named in KINDS:
        raise UsageError(f"{named} is a layer: compare it at level layer; {suggestion('', OPERATORS)}", key=key)
    raise UsageError(f"unknown operator {named!r}; {suggestion(named, OPERATORS)}", key=key)


def _layer(named: str, key: str) -> tuple[type[Spec], dict[str, str]]:
    """A layer from outside."""
    if ":" in named:
        return ExternalSpec, {"factory": _factory(named, key)}
    outside = entry_point_layers()
    if named in outside:
        return ExternalSpec, {"factory": outside[named]}
    if named in OPERATORS:
        raise UsageError(f"{named} is an operator: compare it at level op; {suggestion('', KINDS)}", key=key)
    known = suggestion(named, [*KINDS, *outside])
    raise UsageError(f"unknown layer {named!r}; {known} (a layer of your own: package.module:factory)", key=key)


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
