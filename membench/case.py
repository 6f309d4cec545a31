"""A Case: one fully resolved measurement, and what decides whether two of them are the same."""

import hashlib
import json
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from membench.layers.spec import (
    Cost,
    ExpertRowsSpec,
    ExternalSpec,
    GroupedExpertsSpec,
    KeyScoresSpec,
    LayerSpec,
    Layout,
    MemorySpec,
    Mode,
    MoESpec,
    OperatorSpec,
    Optimizer,
    PeerSpec,
    ProductKeyTopKSpec,
    RetrievalSpec,
    RoutingKind,
    SharedBy,
    Spec,
    Step,
    WeightedBagSpec,
)
from membench.learning.settings import Training
from membench.learning.tasks import AnyTask

# Part of every case id: raise it when a number measured before would no longer be comparable
# (CHANGELOG.md says what changed).
METHOD_VERSION = 1
Status = Literal["ok", "oom", "timeout", "error", "skipped", "diverged"]  # what became of a case, or of a seed of it


class RoutingConfig(BaseModel):
    """Where the lookups or assignments of every sparse arm come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: RoutingKind = Field(
        default="routed",
        description="routed: the layer's own weights choose; uniform: all are as likely; zipf: a few are popular; "
        "trace: as recorded",
    )
    zipf_exponent: NonNegativeFloat = Field(default=1.0, le=4.0, description="used by kind zipf")
    trace: str | None = Field(default=None, description="used by kind trace: an .npy file of recorded indices")
    trace_sha256: str | None = Field(default=None, description="of the trace's content; found by the plan")


class Case(BaseModel):
    """One arm at one size in one mode: what one process measures and one record reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    arm: str
    level: Literal["layer", "op", "block", "model", "training"] = "layer"
    mode: Mode
    layer: LayerSpec
    tokens: PositiveInt = Field(description="b, tokens of one rank")
    sequences: PositiveInt = Field(default=1, description="of a block or a model, that the tokens belong to")
    context: NonNegativeInt = Field(default=0, description="tokens of a sequence before these, in its KV cache")
    ranks: PositiveInt = Field(default=1, description="P: one rank's share of a P-way parallel layer is measured")
    shared_by: SharedBy | None = Field(
        default=None, description="P processes share the layer so, and all are measured; None: a share alone"
    )
    optimizer: Optimizer | None = Field(default=None, description="only in mode train_step")
    routing: RoutingConfig = RoutingConfig()
    seed: NonNegativeInt = 0
    threads: PositiveInt | None = Field(default=None, description="CPU threads; None: all cores of the device")
    task: AnyTask | None = Field(default=None, description="level training: what is learnt")
    training: Training | None = Field(default=None, description="level training: how; rounds are its seeds")

    @property
    def id(self) -> str:
        """Hash of the resolved config and the method's version; equal ids are comparable."""
        config = {**self.as_json(), "method_version": METHOD_VERSION}
        config["routing"].pop("trace", None)  # a recording is what is in it, not where it lies
        for name in _NOT_LEARNT_BY:
            config.get("training", {}).pop(name, None)
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """As JSON that an earlier membench reads, too, where it knows all that the case uses.

        What was renamed has its first name, and later fields that are at their defaults are left out.
        """
        case = self.model_copy(update={"layer": self.layer.under_first_names()})
        return _used(case, case.model_dump(mode="json"))

    def step(self, **known: Any) -> Step:
        """One step of the case, for its cost; ``known`` is what else of a ``Step`` is."""
        return Step(
            self.tokens,
            mode=self.mode,
            optimizer=self.optimizer,
            ranks=self.ranks,
            sequences=self.sequences,
            context=self.context,
            **known,
        )

    @property
    def layout(self) -> Layout | None:
        """How real ranks share the layer; None where there are none."""
        return None if self.shared_by is None else self.layer.shared_by(self.shared_by, self.ranks)

    def cost_of(self, spec: Spec, step: Step) -> Cost:
        """What a step costs one rank, ``spec`` being what counts the layer."""
        return spec.cost(step) if self.layout is None else self.layout.cost(spec, step)[0]

    @property
    def name(self) -> str:
        """What a line of progress calls it: arm, mode, optimizer, tokens."""
        return " ".join(filter(None, [self.arm, self.mode, self.optimizer, f"x{self.tokens}"]))

    @property
    def build_key(self) -> str:
        """Cases with equal keys share one build of the layer (all modes and token counts)."""
        config = self.model_dump(mode="json", include={"arm", "layer", "ranks", "shared_by", "seed"})
        return json.dumps(config, sort_keys=True)


# Fields of the first version that have defaults, and are hashed at these too. A field that comes later is not listed:
# it is hashed only where it is used, so that the ids of cases from before it stay.
HASHED_ALWAYS: dict[type[BaseModel], set[str]] = {
    Case: {"level", "ranks", "optimizer", "routing", "seed", "threads"},
    RoutingConfig: {"zipf_exponent", "trace", "trace_sha256"},
    Spec: {"dtype"},
    MoESpec: {
        "top_k",
        "shared_hidden",
        "choice",
        "router",
        "renormalize",
        "balancing",
        "balance_weight",
        "z_loss_weight",
        "bias_rate",
        "capacity_factor",
    },
    RetrievalSpec: {"query_norm", "qk_norm"},
    MemorySpec: {"heads", "top_k", "value_dim", "companion_hidden"},
    PeerSpec: {"heads", "top_k", "companion_hidden"},
    ExternalSpec: {"options"},
    OperatorSpec: {"path"},
    WeightedBagSpec: {"heads", "top_k"},
    ExpertRowsSpec: {"heads", "top_k"},
    KeyScoresSpec: {"heads"},
    ProductKeyTopKSpec: {"heads", "top_k"},
    GroupedExpertsSpec: {"top_k"},
}
_NOT_LEARNT_BY = ("seeds", "checkpoint_seconds")  # how often it is trained, and what is kept meanwhile
_TAG = "kind"  # tells the classes of a union apart: hashed always, of classes to come too


def _used(value: Any, dumped: Any) -> Any:
    """``dumped``, which is ``value`` as JSON, less the later fields that are at their defaults."""
    if isinstance(value, dict):
        return {key: _used(each, plain) for each, (key, plain) in zip(value.values(), dumped.items(), strict=False)}
    if isinstance(value, (list, tuple)):
        return [_used(each, plain) for each, plain in zip(value, dumped, strict=True)]
    if not isinstance(value, BaseModel):
        return dumped
    unused = {name for name in _later_fields(type(value)) if getattr(value, name) == _default(value, name)}
    kept = type(value).model_fields.keys() - unused
    return {name: _used(getattr(value, name), dumped[name]) for name in kept}


@cache
def _later_fields(kind: type[BaseModel]) -> list[str]:
    """The fields with defaults, less those of the first version."""
    first = {_TAG}.union(*(HASHED_ALWAYS.get(each, ()) for each in kind.__mro__))
    return [name for name, field in kind.model_fields.items() if not field.is_required() and name not in first]


def _default(config: BaseModel, name: str) -> Any:
    """What the field is where nobody says anything else."""
    return type(config).model_fields[name].get_default(call_default_factory=True, validated_data=vars(config))
