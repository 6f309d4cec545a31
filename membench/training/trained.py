"""What one training run leaves behind: plain data, which a process sends and a result file keeps."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from membench.learning.curve import Point

__all__ = ["Point", "Trained"]


class Trained(BaseModel):
    """One run of one seed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    status: Literal["ok", "diverged"]
    reason: str | None = Field(default=None, description="of a divergence: what was seen, and at which step")
    curve: list[Point] = Field(default_factory=list)
    final: dict[str, float | None] = Field(
        default_factory=dict, description="of the last evaluation, and tokens_per_s, mfu, peak_memory_bytes, …"
    )
    resumed_at: list[int] = Field(default_factory=list, description="steps at which a checkpoint was taken up")
    data: dict[str, Any] = Field(default_factory=dict, description="what was made or read; of files their sha256")
