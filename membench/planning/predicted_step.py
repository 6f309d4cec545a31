"""What a step is predicted to take on a GPU, stage by stage, from the kernels that it launches."""

from pydantic import BaseModel, ConfigDict, computed_field


class _Predicted(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class PredictedKernel(_Predicted):
    """All launches of one name in a stage. ``limit`` is what bounds the longest of them."""

    name: str
    launches: int
    moved_bytes: float
    flops: float
    predicted_ms: float
    limit: str


class PredictedStage(_Predicted):
    """A stage of a step, forward or backward, as ``membench profile`` tells them apart.

    ``floor_ms`` is that of a roofline of published peaks; None where the algorithm is counted to need nothing.
    """

    name: str
    backward: bool
    launches: int
    moved_bytes: float
    flops: float
    predicted_ms: float
    floor_ms: float | None
    kernels: list[PredictedKernel]

    @computed_field
    @property
    def times_floor(self) -> float | None:
        """Time over its floor."""
        return self.predicted_ms / self.floor_ms if self.floor_ms else None

    @property
    def excess_ms(self) -> float:
        """Time above its floor."""
        return self.predicted_ms - (self.floor_ms or 0.0)


class PredictedStep(_Predicted):
    """A step: its stages, which the device does one after the other, and what the host takes to launch them."""

    stages: list[PredictedStage]
    host_ms: float

    @computed_field
    @property
    def launches(self) -> int:
        return sum(stage.launches for stage in self.stages)

    @computed_field
    @property
    def device_ms(self) -> float:
        """All stages."""
        return sum(stage.predicted_ms for stage in self.stages)

    @computed_field
    @property
    def step_ms(self) -> float:
        """The longer of the device's time and the host's, which launches while the device computes."""
        return max(self.device_ms, self.host_ms)

    @property
    def next_stage(self) -> PredictedStage | None:
        """Where to work next: the stage with the most time above its floor."""
        return max(self.stages, key=lambda stage: stage.excess_ms, default=None)
