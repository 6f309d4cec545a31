"""What ``membench profile`` was asked, as a scenario in memory: everything a scenario can check is checked by it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from membench.errors import UsageError, shown, suggestion
from membench.layers.spec import KINDS, PRESETS, Spec
from membench.layers.spec.base import WIDTH_MULTIPLE
from membench.layers.spec.quantities import format_quantity
from membench.planning.solved_arms import solve_points
from membench.planning.solver import Ask, nearest
from membench.scenario.arms import entry_point_layers
from membench.scenario.scenario import Scenario, parse_scenario

DEFAULT_TOKENS = {"cpu": 512, "cuda": 16_384}
DEFAULT_KEYS = "1M"
DEFAULT_EXPERTS = 64
WIDTH_FACTOR = 4  # hidden width of a dense layer, and of the experts a token uses together, over d
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_FLOPS_TOLERANCE = 0.05  # of two layers side by side, where widths in multiples of 64 come no nearer

# Options that are a layer's dimensions, by the name that its config has for them.
DIMENSIONS = {
    "num_keys": "--keys",
    "heads": "--heads",
    "top_k": "--top-k",
    "key_dim": "--key-dim",
    "value_dim": "--value-dim",
    "companion_hidden": "--companion-hidden",
    "num_experts": "--experts",
    "expert_hidden": "--expert-hidden",
    "shared_hidden": "--shared-hidden",
    "ffn_hidden": "--ffn-hidden",
}
# The other keys of the scenario in memory, and the options that set them.
_OPTIONS = {
    "model_dim": "--dim",
    "dtype": "--dtype",
    "workload.tokens": "--tokens",
    "workload.prompt": "--tokens",
    "workload.sequences": "--sequences",
    "workload.context": "--context",
    "workload.modes": "--mode",
    "workload.optimizers": "--optimizer",
    "workload.routing": "--routing",
    "fit.ranks": "--ranks",
}


@dataclass(frozen=True)
class Asked:
    """The options, those left out as None. ``dimensions`` are by the names of the layer's config.

    ``level`` is what is profiled: the layer, or the block or the model of a ``preset`` with it; then ``tokens`` are
    those of a sequence.
    """

    layer: str
    against: str | None = None
    dimensions: dict[str, Any] = field(default_factory=dict)
    model_dim: int = 1024
    dtype: str = "bf16"
    level: Literal["layer", "block", "model"] = "layer"
    preset: str | None = None
    tokens: int | None = None
    sequences: int | None = None
    context: int | None = None
    modes: tuple[str, ...] = ()
    optimizer: str = "row_adagrad"
    routing: str = "routed"
    ranks: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """d: the layer's, or the model's that it is in."""
        return PRESETS[self.preset].model_dim if self.preset in PRESETS else self.model_dim

    @property
    def default_modes(self) -> tuple[str, ...]:
        """The modes profiled where none is named."""
        return ("forward", "forward_backward") if self.level == "layer" else ("prefill", "decode")


def scenario_of(asked: Asked, device: str) -> Scenario:
    """The scenario that asks the same; the first arm is the asked layer, the second what it is held against.

    Raises:
        UsageError: one line that names the option.
    """
    first = _arm_name(asked.layer)
    tree = _tree(asked, device)
    arms: dict[str, dict[str, Any]] = {first: {"layer": asked.layer, **_dimensions(asked)}}
    overrides = [f"arms.{first}.{override}" for override in asked.overrides]
    with naming_options(asked):
        scenario = parse_scenario(json.dumps({**tree, "arms": arms}), "", overrides)
        if asked.against is None:
            return scenario
        arms[_arm_name(asked.against)] = {"layer": asked.against, **_dimensions_against(asked, scenario)}
        return parse_scenario(json.dumps({**tree, "arms": arms}), "", overrides)


def _tree(asked: Asked, device: str) -> dict[str, Any]:
    """All of the scenario but its arms."""
    tokens = DEFAULT_TOKENS[device] if asked.tokens is None else asked.tokens
    in_sequences = {"sequences": asked.sequences, "context": asked.context}
    stated = {name: value for name, value in in_sequences.items() if value is not None}
    if asked.level == "layer":
        size, work = {"model_dim": asked.model_dim}, {"tokens": tokens, **stated}
    else:
        size, work = {"level": asked.level, "model": {"preset": asked.preset}}, {"prompt": tokens, **stated}
    return {
        "schema_version": 1,
        "name": "profile",
        **size,
        "dtype": DTYPES.get(asked.dtype, asked.dtype),
        "workload": {
            **work,
            "modes": list(dict.fromkeys(asked.modes or asked.default_modes)),
            "optimizers": [asked.optimizer],
            "routing": {"kind": asked.routing},
        },
        "fit": {"policy": "rank", "ranks": "auto" if asked.ranks is None else asked.ranks},
    }


@contextmanager
def naming_options(asked: Asked) -> Iterator[None]:
    """Says every UsageError raised inside in terms of options instead of keys of a scenario."""
    try:
        yield
    except UsageError as error:
        if error.source.startswith("--set"):
            prefix = f"arms.{_arm_name(asked.layer)}."
            source = error.source.replace(prefix, "", 1)
            raise UsageError(error.problem, key=error.key.removeprefix(prefix), source=source) from None
        if error.source:
            raise
        raise UsageError(_in_options(error.problem), source=_option(error.key, asked)) from None


def _option(key: str, asked: Asked) -> str:
    """The option that set a key of the scenario; the layer's where none alone did."""
    if key == "model" or key.startswith("model."):
        return f"--{asked.level}"
    for known, option in _OPTIONS.items():
        if key == known or key.startswith((f"{known}.", f"{known}[")):
            return option
    _, _, rest = key.partition("arms.")
    for override in asked.overrides:
        name = override.partition("=")[0].strip()
        if f"{rest}.".startswith(f"{_arm_name(asked.layer)}.{name}."):
            return f"--set {override}"
    arm, _, dimension = rest.partition(".")
    if dimension in DIMENSIONS:
        return DIMENSIONS[dimension]
    if asked.against is not None and arm == _arm_name(asked.against):
        return f"--against {asked.against}"
    return f"--layer {asked.layer}"


def _in_options(problem: str) -> str:
    """A scenario's message without its keys."""
    problem = re.sub(
        r": allow more memory, pin fit\.ranks, or use fit\.policy skip$", ": take fewer keys or tokens", problem
    )
    problem = re.sub(r": free or allow more$", ": free some", problem)
    problem = problem.replace("is for levels block and model: a layer has tokens", "is for --block and --model")
    return re.sub(r"\bworkload\.|\bfit\.", "", problem)


def _arm_name(layer: str) -> str:
    """A layer's name as an arm may be called: a factory by its function."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", layer.rpartition(":")[2]).strip("_-")
    return name[:64] if name[:1].isalpha() else "layer"


def _kind(layer: str, option: str) -> type[Spec] | None:
    """The config class of a kind; None for a layer from outside."""
    if layer in KINDS:
        return KINDS[layer]
    if ":" in layer or layer in entry_point_layers():
        return None
    known = suggestion(layer, [*KINDS, *entry_point_layers()])
    raise UsageError(
        f"unknown layer {shown(layer)}; {known} (a layer of your own: package.module:factory)", source=option
    )


def _dimensions(asked: Asked) -> dict[str, Any]:
    """The asked layer's dimensions: those given, which it or the other layer must have, and defaults."""
    kind = _kind(asked.layer, "--layer")
    other = _kind(asked.against, "--against") if asked.against is not None else None
    for name in asked.dimensions:
        if not _has(kind, name) and not _has(other, name):
            own = [option for known, option in DIMENSIONS.items() if _has(kind, known)]
            what = f"it has {', '.join(own)}" if own else "its options are given by --set options.NAME=VALUE"
            raise UsageError(f"a {asked.layer} layer has none; {what}", source=DIMENSIONS[name])
    return {**_defaults(kind, asked), **{name: value for name, value in asked.dimensions.items() if _has(kind, name)}}


def _dimensions_against(asked: Asked, scenario: Scenario) -> dict[str, Any]:
    """The other layer's: given is what it alone has, or shares as a kind of lookup; its widths meet the FLOPs.

    Raises:
        UsageError: its FLOPs cannot come near the asked layer's.
    """
    assert asked.against is not None
    source = f"--against {asked.against}"
    if _arm_name(asked.against) == _arm_name(asked.layer):
        raise UsageError("is --layer itself; name another", source=source)
    kind, first = _kind(asked.against, "--against"), _kind(asked.layer, "--layer")
    if kind is None or first is None:
        raise UsageError("the FLOPs of a layer from outside are known only when it is built", source=source)
    solved = {dimension.name for dimension in kind.FREE["flops_per_token"]}
    lookups = _has(kind, "num_keys") and _has(first, "num_keys")
    given = {
        name: value
        for name, value in asked.dimensions.items()
        if _has(kind, name) and name not in solved and (lookups or not _has(first, name))
    }
    defaults = _defaults(kind, replace(asked, dimensions=given))
    given = {**{name: value for name, value in defaults.items() if name not in solved}, **given}
    ((asked_arm,),) = (arms.values() for arms in solve_points(scenario.points))
    flops = asked_arm.achieved["flops_per_token"]
    shared = {"model_dim": asked.width, "dtype": asked_arm.spec.dtype}
    ask = Ask("flops_per_token", flops, whole=scenario.points[0].arms[_arm_name(asked.layer)].whole)
    spec = nearest(kind, {**shared, **given}, ask)
    found = ask.achieved(spec)
    if abs(found / flops - 1) > _FLOPS_TOLERANCE:
        asked_flops, found_flops = format_quantity(flops), format_quantity(found)
        raise UsageError(f"{asked_flops} FLOPs a token are asked, nearest is {found_flops}", source=source)
    return {**given, **{name: getattr(spec, name) for name in solved}}


def _has(kind: type[Spec] | None, name: str) -> bool:
    return kind is not None and name in kind.model_fields


def _defaults(kind: type[Spec] | None, asked: Asked) -> dict[str, Any]:
    """What a layer has where no option says otherwise; heads and top_k are its config's own."""
    if kind is None:
        return {}
    if _has(kind, "num_keys"):
        return {"num_keys": DEFAULT_KEYS, "key_dim": max(2, asked.width // 4 * 2)}
    if _has(kind, "num_experts"):
        used = asked.dimensions.get("top_k") or kind.model_fields["top_k"].default
        return {"num_experts": DEFAULT_EXPERTS, "expert_hidden": _width(WIDTH_FACTOR * asked.width // used)}
    if _has(kind, "ffn_hidden") and asked.level == "layer":
        return {"ffn_hidden": WIDTH_FACTOR * asked.width}
    return {}


def _width(width: int) -> int:
    """Rounded down to what budgets solve for, unless too narrow for that."""
    return width // WIDTH_MULTIPLE * WIDTH_MULTIPLE or max(1, width)
