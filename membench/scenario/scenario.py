"""A scenario: one question, as a YAML file, read into types.

``Scenario`` has exactly the file's keys. Its ``points`` are the combinations of its axes,
each with its arms checked against their kind's config; what an arm leaves open is solved
later, by ``membench.planning.solver``.
"""

import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, PositiveInt, PrivateAttr, ValidationError

from membench.errors import UsageError, blaming, shown, suggestion, usage_error
from membench.layers.spec import MODES, OPTIMIZERS, PRESETS, ModelShape
from membench.layers.spec.quantities import DTypeName
from membench.learning.extent import Extent, extent_of
from membench.learning.tasks import AnyTask
from membench.scenario.arms import SHARED_KEY, Arm, Level, arm_from, check_every_arm
from membench.scenario.axes import SWEPT_SECTIONS, Axes, axes_from, put_at, without_axis
from membench.scenario.budgets import Budgets, Strict
from membench.scenario.learning import check_swept, task_from, training_from
from membench.scenario.scales import FULL, at_scale
from membench.scenario.settings import Fit, Limits, Measure, Workload
from membench.scenario.shipped import find_scenario, list_scenarios
from membench.scenario.wholes import WHOLE_LEVELS, shape_from
from membench.words import how_many
from membench.yaml_files.reader import parse_mapping, parse_value, read_text

__all__ = ["Point", "Scenario", "list_scenarios", "load_scenario", "parse_scenario"]

ScenarioName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def _whole_number(value: Any) -> Any:
    """Refuses true and 1.0, which Python calls equal to 1."""
    if type(value) is not int:
        raise ValueError(f"should be 1, not {value!r}")
    return value


@dataclass(frozen=True)
class Point:
    """One combination of the axes: what every arm is given and asked there.

    ``values`` are the swept keys' values; ``tree`` is the scenario's plain data with them. ``task`` is what is learnt,
    at level training.
    """

    values: dict[str, Any]
    tree: dict[str, Any]
    budgets: Budgets
    arms: dict[str, Arm]
    workload: Workload
    task: AnyTask | None = None


class Scenario(Strict):
    """A scenario as its file states it; the swept sections before any axis is applied."""

    schema_version: Annotated[Literal[1], BeforeValidator(_whole_number)] = Field(description="this version reads 1")
    name: ScenarioName = Field(description="of the scenario and its result files: letters, digits, _ . and -")
    description: str = Field(default="", description="a line that says what is compared")
    level: Level = Field(
        default="layer",
        description="what an arm is: a layer, an operator, a layer in a block or a model, or such a model trained",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU if there is one")
    model_dim: PositiveInt | None = Field(
        default=None, le=2**20, description="d of arms that state none; a model has its own"
    )
    dtype: DTypeName | None = Field(
        default=None, description="of arms that state none; else bfloat16, in training float32"
    )
    model: dict[str, Any] = Field(
        default={}, description="levels block, model and training: a preset, or the shape itself"
    )
    task: dict[str, Any] = Field(default={}, description="level training: what is learnt; its kind and its keys")
    training: dict[str, Any] = Field(default={}, description="level training: how; arms may state keys of their own")
    budgets: Budgets = Field(default=Budgets(), description="what arms must have that state no budgets of their own")
    every_arm: dict[str, Any] = Field(default={}, description="keys of all arms that know them and do not state them")
    arms: dict[str, Any] = Field(min_length=1, description="what is compared: a name for each, and its keys")
    workload: Workload = Field(default=Workload(), description="what is computed, the same for every arm")
    axes: dict[str, Any] = Field(default={}, description="keys that take several values; all combinations are cases")
    fit: Fit = Field(default=Fit(), description="what happens where the device is too small")
    measure: Measure = Field(default=Measure(), description="how much is measured")
    limits: Limits = Field(default=Limits(), description="what stops a scenario from growing by accident")
    scales: dict[str, dict[str, Any]] = Field(
        default={}, description="other sizes by name: keys, dotted, and what each is at that size"
    )
    scale: str = Field(default=FULL, description="the size: that of the file as it stands, or one of scales")

    _points: tuple[Point, ...] = PrivateAttr(default=())
    _axes: Axes = PrivateAttr(default=Axes())
    _text: str = PrivateAttr(default="")
    _source: str = PrivateAttr(default="")
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @property
    def points(self) -> tuple[Point, ...]:
        """Every combination of the axes, in order; one where there are none."""
        return self._points

    @property
    def text(self) -> str:
        """The file's text, before any override."""
        return self._text

    @property
    def source(self) -> str:
        """The file's path."""
        return self._source

    @property
    def overrides(self) -> tuple[str, ...]:
        """The ``--set`` arguments, as given."""
        return self._overrides

    @property
    def nproc(self) -> int | None:
        """How many processes are to share its layers; None: it does not say that they are shared."""
        if not any(arm.shared_by for point in self._points for arm in point.arms.values()):
            return None
        return self.fit.ranks if isinstance(self.fit.ranks, int) else 2

    def with_network(self, name: str) -> Self:
        """The same, what connects ranks being told by a file."""
        return self.model_copy(update={"fit": self.fit.model_copy(update={"network": name})})

    def excludes(self, point: Point, **case: Any) -> bool:
        """Whether the exclusions leave out this case (arm, mode, optimizer) of a point."""
        return self._axes.excludes(point.tree, case)


def load_scenario(name_or_path: str, overrides: list[str] | tuple[str, ...] = ()) -> Scenario:
    """The scenario of a file, or a shipped one by name, with ``key=value`` overrides.

    Raises:
        UsageError: one line that names the file, the key and what would be right.
    """
    path = find_scenario(name_or_path)
    return parse_scenario(read_text(path), str(path), overrides)


def parse_scenario(text: str, source: str, overrides: list[str] | tuple[str, ...] = ()) -> Scenario:
    """The scenario of a YAML text; ``source`` is what errors call it.

    Raises:
        UsageError: see ``load_scenario``.
    """
    tree = parse_mapping(text, source)
    asked = [_Override.of(override) for override in overrides]
    with blaming(source):
        scale = next((each.value for each in reversed(asked) if each.key == "scale"), tree.get("scale", FULL))
        for key, value in at_scale(tree, scale):
            _put(tree, key, value)
    for each in asked:
        with blaming(each.source):
            _put(tree, each.key, each.value)
    with blaming(source):
        scenario = _validated(tree)
        axes = axes_from(scenario.axes)
        _check_size(scenario, axes)
        scenario._points = tuple(_point(tree, values, scenario) for values in axes.points())
        _check_exclusions(scenario, axes)
    scenario._axes, scenario._text, scenario._source = axes, text, source
    scenario._overrides = tuple(overrides)
    return scenario


def _validated(tree: dict[str, Any]) -> Scenario:
    try:
        return Scenario.model_validate(tree, strict=True)
    except ValidationError as error:
        raise usage_error(error, Scenario) from None


class _Override(NamedTuple):
    """One ``--set key=value``."""

    source: str
    key: str
    value: Any

    @classmethod
    def of(cls, override: str) -> Self:
        key, equals, text = override.partition("=")
        key, source = key.strip(), f"--set {override}"
        if not equals or not key or not text.strip():
            raise UsageError("write key=value, as in --set workload.tokens=64", source=source)
        return cls(source, key, parse_value(text, source))


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a key; one that an axis sweeps is swept no more."""
    if key.startswith("axes."):
        axes = tree.setdefault("axes", {})
        if not isinstance(axes, dict):
            raise UsageError("should map keys to values", key="axes")
        axes[key.removeprefix("axes.")] = value
        return
    put_at(tree, key, value)
    if "axes" in tree and key != "axes":
        tree["axes"] = without_axis(tree["axes"], key)


def _check_size(scenario: Scenario, axes: Axes) -> None:
    """Refuses too many cases before any is made."""
    steps = sum(len(scenario.workload.optimizers) if mode == "train_step" else 1 for mode in scenario.workload.modes)
    cases = axes.num_points * len(scenario.arms) * steps
    if cases > scenario.limits.max_cases:
        factors = {"point": axes.num_points, "arm": len(scenario.arms), "mode": steps}
        product = " x ".join(how_many(count, thing) for thing, count in factors.items())
        raise UsageError(
            f"{product} are {cases} cases, above {scenario.limits.max_cases}: sweep less, or raise limits.max_cases",
            key="limits.max_cases",
        )


def _check_exclusions(scenario: Scenario, axes: Axes) -> None:
    """Refuses an exclusion of an arm, mode or optimizer that there is none of: it would leave out nothing."""
    arms = sorted({name for point in scenario.points for name in point.arms})
    for key, known in {"arm": arms, "mode": MODES, "optimizer": OPTIMIZERS}.items():
        for index, pairs in enumerate(axes.exclude):
            if key in pairs and pairs[key] not in known and not (key == "optimizer" and pairs[key] is None):
                raise UsageError(
                    f"no {key} is {shown(pairs[key])}; {suggestion(pairs[key], known)}",
                    key=f"axes.exclude[{index}].{key}",
                )


def _point(tree: dict[str, Any], values: dict[str, Any], base: Scenario) -> Point:
    if values:
        tree = {**tree, **copy.deepcopy({key: tree[key] for key in SWEPT_SECTIONS if key in tree})}
        for key, value in values.items():
            put_at(tree, key, value)
        base = _validated(tree)
    defaults = {key: value for key in ("model_dim", "dtype") if (value := getattr(base, key)) is not None}
    task = _task(base)
    if task is not None:
        check_swept(values)
    extent = None if task is None else extent_of(task)
    shape = _shape(base, extent)
    if shape is not None:
        defaults |= {"model_dim": shape.model_dim, "ffn_hidden": shape.ffn_hidden}
    if task is not None:
        defaults = {"dtype": "float32", **defaults}
    arms = {
        name: arm_from(name, raw, base.every_arm, defaults, base.level, shape, base.training if task else None)
        for name, raw in base.arms.items()
    }
    check_every_arm(base.every_arm, arms)
    if task is not None and base.fit.ranks not in ("auto", 1) and not any(arm.shared_by for arm in arms.values()):
        problem = f"should be 1, not {base.fit.ranks}: a model is trained whole where no arm says {SHARED_KEY}"
        raise UsageError(problem, key="fit.ranks")
    if base.level == "op":
        _check_operators(base, arms)
    if shape is not None:
        _check_whole(base, arms)
    for owner, budgets in [("", base.budgets), *((f"arms.{name}.", arm.budgets) for name, arm in arms.items())]:
        _check_references(budgets, f"{owner}budgets", arms)
    if extent is None:
        workload = base.workload.at_level(whole=shape is not None)
    else:
        workload = base.workload.of_training(training_from(base.training).sequences, extent.length)
    return Point(values, tree, base.budgets, arms, workload, task)


def _task(base: Scenario) -> AnyTask | None:
    """What is learnt, at level training."""
    if base.level != "training":
        for key in ("task", "training"):
            if getattr(base, key):
                raise UsageError(f"is for level training, this is {base.level}", key=key)
        return None
    if "rounds" in base.measure.model_fields_set:
        raise UsageError("is not for level training: its rounds are training.seeds", key="measure.rounds")
    training_from(base.training)
    return task_from(base.task)


def _shape(base: Scenario, extent: Extent | None) -> ModelShape | None:
    """The shape of the model, at the levels that have one; ``extent``: of what it is trained on."""
    if base.level in WHOLE_LEVELS:
        if base.model_dim is not None:
            raise UsageError("is the model's: say it in model:", key="model_dim")
        if not base.model:
            raise UsageError(f"is missing; name a preset ({', '.join(PRESETS)}) or give the shape", key="model")
        return shape_from(base.model, extent and extent.vocab_size)
    if base.model:
        raise UsageError(f"is for levels {', '.join(WHOLE_LEVELS)}; this is {base.level}", key="model")
    return None


def _check_references(budgets: Budgets | None, key: str, arms: dict[str, Arm]) -> None:
    for name, amount in budgets.amounts().items() if budgets else ():
        if isinstance(amount, str) and amount not in arms:
            known = f"the arms are {', '.join(sorted(arms))}"
            raise UsageError(
                f"{shown(amount)} is neither a quantity such as 352.3M nor an arm; {known}", key=f"{key}.{name}"
            )


def _check_whole(base: Scenario, arms: dict[str, Arm]) -> None:
    """Refuses what is only for single layers: latency budgets, whose measured cases are layers, and shrinking."""
    own = [(f"arms.{arm.name}.budgets", arm.budgets) for arm in arms.values()]
    for key, budgets in [("budgets", base.budgets), *own]:
        if budgets is not None and budgets.latency_ms:
            raise UsageError(f"is for level layer, this is {base.level}", key=f"{key}.latency_ms")
    if base.fit.policy == "shrink":
        raise UsageError("shrink is for level layer; a model that does not fit is measured in parts", key="fit.policy")


def _check_operators(base: Scenario, arms: dict[str, Arm]) -> None:
    """Refuses what means nothing to an operator: budgets, and a routing by the layer's own weights."""
    own = [(f"arms.{arm.name}.budgets", arm.budgets) for arm in arms.values()]
    for key, budgets in [("budgets", base.budgets), *own]:
        if budgets is not None and (budgets.amounts() or budgets.latency_ms):
            raise UsageError("an operator's sizes are given, there is nothing to solve: leave budgets out", key=key)
    routed = next((arm.name for arm in arms.values() if arm.kind.ROUTED), None)
    if routed is not None and base.workload.routing.kind == "routed":
        raise UsageError(
            f"arm {routed} is an operator, which chooses nothing itself: say uniform, zipf or trace, not 'routed'",
            key="workload.routing.kind",
        )
