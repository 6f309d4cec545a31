"""What a run of a scenario would do: every case with its counts, its fit and what a roofline predicts."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from membench.case import Case
from membench.errors import UsageError, shown
from membench.layers.spec import Mode, Optimizer
from membench.planning.predicted_step import PredictedStep


class PlannedLearning(BaseModel):
    """What the runs of a trained case are: each of so many steps, tokens and FLOPs, as far as its budget says them."""

    model_config = ConfigDict(frozen=True)

    tokens_of_step: int
    flops_of_step: float
    steps: int | None = None
    tokens: float | None = None
    flops: float | None = None
    first_seed: int = 0
    seeds: int
    trials: int = 0


class PlannedCase(BaseModel):
    """A case with what is known before it is measured.

    ``point`` has the swept keys' values, less those that change nothing for this arm.
    Counts are one rank's, of one step; they are null for a layer from outside until it is
    built. ``skipped`` says why a case will not run. ``parts`` are the cases that a model is the sum of, by id with how
    many there are of each, where it is not measured whole; ``part_of`` the arms that a case is a part of.
    ``predicted_ms`` and ``communication_ms`` are null where the hardware or the link is unknown; where ranks share the
    layer, the latter is by kind of collective too. ``learning`` is of cases of level training alone, ``kernels`` of
    plans that were asked for what a GPU's kernels take.
    """

    model_config = ConfigDict(frozen=True)

    case: Case
    point: dict[str, Any]
    skipped: str | None = None
    parts: dict[str, int] = {}
    part_of: list[str] = []
    labels: list[str] = []
    notes: list[str] = []
    companion: bool = False
    asked: dict[str, float] = {}
    achieved: dict[str, float] = {}

    params: int | None = None
    rank_params: int | None = None
    active_params: int | None = None
    stored_bytes: int | None = None
    flops: float | None = None
    flops_executed: float | None = None
    bytes_min: float | None = None
    bytes_issued: float | None = None
    bytes_dram_expected: float | None = None
    lookups: int | None = None
    unique_rows: float | None = None
    active_experts: float | None = None
    is_expectation: bool = False
    memory_bytes: dict[str, float] | None = None
    communication_bytes: dict[str, float] | None = None
    communication_ms: float | None = None
    communication_ms_by_kind: dict[str, float] | None = None
    predicted_ms: float | None = None
    learning: PlannedLearning | None = None
    kernels: PredictedStep | None = None

    @computed_field(description="of the case: equal ids are comparable")
    @property
    def id(self) -> str:
        return self.case.id


class PlannedLayout(BaseModel):
    """One way in which the devices of named hardware can share a case's layer. Of one rank, of one step.

    ``skipped`` says why they cannot; then all else is null. ``memory_bytes`` are those that a rank holds.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    arm: str
    mode: Mode
    optimizer: Optimizer | None
    point: dict[str, Any]
    layout: str
    skipped: str | None = None
    memory_bytes: float | None = None
    sent_bytes: float | None = None
    predicted_ms: float | None = None
    communication_ms: float | None = None

    @property
    def step_ms(self) -> float | None:
        """Compute and communication, one after the other."""
        if self.predicted_ms is None or self.communication_ms is None:
            return None
        return self.predicted_ms + self.communication_ms


class Plan(BaseModel):
    """What a run of a scenario would do. ``layouts`` are for named hardware of several devices."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    description: str = ""
    hardware: str | None = None
    available_bytes: float | None = None
    ranks: int
    ranks_reason: str
    scale: float = 1.0
    link_gb_s: float | None = None
    network: str | None = None
    cases: list[PlannedCase]
    layouts: list[PlannedLayout] = []

    @property
    def runnable(self) -> list[PlannedCase]:
        """The cases that are measured: not skipped, and no sum of others."""
        return [planned for planned in self.cases if planned.skipped is None and not planned.parts]

    def only(self, ids: Sequence[str]) -> "Plan":
        """The same plan with only the cases whose ids begin so; all of them where ``ids`` is empty.

        Raises:
            UsageError: no case's id begins so.
        """
        for wanted in ids:
            if not wanted or not any(planned.id.startswith(wanted) for planned in self.cases):
                problem = f"no case of {self.scenario} has an id that begins with {shown(wanted)}"
                raise UsageError(f"{problem}; membench plan {self.scenario} --json lists them", source="--case")
        if not ids:
            return self
        named = [planned for planned in self.cases if planned.id.startswith(tuple(ids))]
        parts = {id_ for planned in named for id_ in planned.parts}
        kept = [planned for planned in self.cases if planned in named or planned.id in parts]
        return self.model_copy(update={"cases": kept})
