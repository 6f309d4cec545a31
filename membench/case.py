"""A Case: one fully resolved measurement, and what decides whether two of them are the same."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from membench.layers.spec import LayerSpec, Mode, Optimizer, RoutingKind

# Part of every case id: raise it when a number measured before would no longer be comparable
# (CHANGELOG.md says what changed).
METHOD_VERSION = 1
Status = Literal["ok", "oom", "timeout", "error", "skipped"]  # what became of a case


class RoutingConfig(BaseModel):
    """Where the lookups or assignments of every sparse arm come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: RoutingKind = "routed"
    zipf_exponent: NonNegativeFloat = Field(default=1.0, le=4.0, description="used by kind zipf")
    trace: str | None = Field(default=None, description="used by kind trace: an .npy file of recorded indices")
    trace_sha256: str | None = Field(default=None, description="of the trace's content; found by the plan")


class Case(BaseModel):
    """One arm at one size in one mode: what one process measures and one record reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    arm: str
    level: Literal["layer", "op"] = "layer"
    mode: Mode
    layer: LayerSpec
    tokens: PositiveInt = Field(description="b, tokens of one rank")
    ranks: PositiveInt = Field(default=1, description="P: one rank's share of a P-way parallel layer is measured")
    optimizer: Optimizer | None = Field(default=None, description="only in mode train_step")
    routing: RoutingConfig = RoutingConfig()
    seed: NonNegativeInt = 0
    threads: PositiveInt | None = Field(default=None, description="CPU threads; None: all cores of the device")

    @property
    def id(self) -> str:
        """Hash of the resolved config and the method's version; equal ids are comparable."""
        config = {**self.model_dump(mode="json"), "method_version": METHOD_VERSION}
        config["routing"].pop("trace")  # a recording is what is in it, not where it lies
        for name in type(self.layer).LATER_FIELDS:
            if config["layer"][name] == type(self.layer).model_fields[name].default:
                del config["layer"][name]
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What a line of progress calls it: arm, mode, optimizer, tokens."""
        return " ".join(filter(None, [self.arm, self.mode, self.optimizer, f"x{self.tokens}"]))

    @property
    def build_key(self) -> str:
        """Cases with equal keys share one build of the layer (all modes and token counts)."""
        config = self.model_dump(mode="json", include={"arm", "layer", "ranks", "seed"})
        return json.dumps(config, sort_keys=True)
