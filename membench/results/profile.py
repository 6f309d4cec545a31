"""What a profile found, JSON-able. Unknown is None; every layer, mode and stage has its own."""

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, computed_field

from membench.results.ceilings import BoundBy


class StageKey(NamedTuple):
    """A stage as it is timed: its forward, or its backward."""

    name: str
    backward: bool = False

    @property
    def label(self) -> str:
        """``bag``, ``bag backward``."""
        return f"{self.name} backward" if self.backward else self.name


REST = StageKey("rest")  # whatever runs outside every stage


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageRow(_Found):
    """One stage in one mode.

    Counts are None where the cost model counts nothing for the stage: nothing of its time is
    then needed by the algorithm, and ``excess_ms`` is all of it. ``floor_ms`` is None too where
    a ceiling is unknown.
    """

    name: str
    backward: bool
    time_ms: float
    share: float = Field(description="of the observed step")
    flops: float | None = None
    bytes_min: float | None = None
    bytes_dram_expected: float | None = None
    row_bytes_dram_expected: float | None = None
    floor_ms: float | None = Field(default=None, description="the longer of FLOPs and bytes at the measured ceilings")
    excess_ms: float | None = Field(default=None, description="time above the floor")
    limit: BoundBy | None = Field(default=None, description="which of the two makes the floor")

    @computed_field
    @property
    def label(self) -> str:
        return StageKey(self.name, self.backward).label

    @computed_field
    @property
    def flops_per_s(self) -> float | None:
        return None if self.flops is None or not self.time_ms else 1e3 * self.flops / self.time_ms

    @computed_field
    @property
    def bytes_per_s(self) -> float | None:
        moved = self.bytes_dram_expected
        return None if moved is None or not self.time_ms else 1e3 * moved / self.time_ms

    @computed_field
    @property
    def of_ceiling(self) -> float | None:
        """The share of the binding ceiling that is reached: floor over time."""
        return None if self.floor_ms is None or not self.time_ms else self.floor_ms / self.time_ms

    @computed_field
    @property
    def times_floor(self) -> float | None:
        """Time over its floor."""
        return self.time_ms / self.floor_ms if self.floor_ms else None


class KernelRow(_Found):
    """An operator (CPU) or a kernel (CUDA), in torch.profiler's words."""

    name: str
    calls: float = Field(description="a step")
    time_ms: float = Field(description="a step, what it calls left out; over all threads")
    share: float


class ModeProfile(_Found):
    """One mode of one layer. ``status`` is not ``ok`` where it could not be profiled; ``reason`` says why."""

    mode: str
    optimizer: str | None
    status: str = "ok"
    reason: str | None = None
    calls: int = Field(default=0, description="observed calls; as many were timed without an observer")
    steady: bool = True
    step_ms: float | None = Field(default=None, description="a step that nobody observes")
    observed_ms: float | None = Field(default=None, description="what the stages and the rest add up to")
    stages: list[StageRow] = []
    kernels: list[KernelRow] = []
    kernels_see_all_threads: bool | None = None
    traffic: dict[str, Any] = {}
    reference: dict[str, Any] | None = None
    cost_source: str | None = None
    ran: dict[str, Any] = Field(default={}, description="what decided times: the path of each operator, compiler …")
    traces: list[str] = []

    @computed_field
    @property
    def overhead(self) -> float | None:
        """What observing added, as a share of the step."""
        return None if not self.step_ms or self.observed_ms is None else self.observed_ms / self.step_ms - 1

    @computed_field
    @property
    def floor_ms(self) -> float | None:
        """The sum of the stages' floors; None where one that has counts has none."""
        counted = [row for row in self.stages if row.bytes_dram_expected is not None]
        floors = [row.floor_ms for row in counted if row.floor_ms is not None]
        return sum(floors) if counted and len(floors) == len(counted) else None

    @computed_field
    @property
    def next_stage(self) -> StageRow | None:
        """Where to work next: the stage with the most time above its floor."""
        able = [row for row in self.stages if row.excess_ms is not None and row.name != REST.name]
        return max(able, key=lambda row: row.excess_ms or 0.0, default=None)


class LayerProfile(_Found):
    """One layer on one device: its modes, and the ceilings measured in the same process."""

    arm: str
    layer: dict[str, Any]
    labels: list[str]
    tokens: int
    params: int | None
    rank_params: int | None
    flops_per_token: float | None
    routing: dict[str, Any]
    ceilings: dict[str, Any] = {}
    threads: int | None = None
    huge_pages: bool | None = None
    communication_ms: dict[str, float | None] = Field(default={}, description="predicted, by mode; not in the step")
    modes: list[ModeProfile]

    @property
    def measured(self) -> list[ModeProfile]:
        return [mode for mode in self.modes if mode.status == "ok"]


class Profile(_Found):
    """What one ``membench profile`` found. With ``--against`` there are two layers, the asked one first."""

    command: str
    started: str
    membench_version: str
    git_sha: str | None
    git_dirty: bool | None
    git_note: str | None = None
    ranks: int
    ranks_reason: str
    environment: dict[str, Any]
    layers: list[LayerProfile]

    @property
    def untraced(self) -> list[str]:
        """Layers and modes that were profiled and have no trace."""
        return [f"{layer.arm} {mode.mode}" for layer in self.layers for mode in layer.measured if not mode.traces]
