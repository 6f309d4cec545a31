"""What one training run leaves behind: plain data, which a process sends and a result file keeps."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Point(BaseModel):
    """A place of a run's curve, after an evaluation."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    step: int = Field(description="updates so far")
    tokens: float = Field(description="trained on so far")
    flops: float = Field(description="of training so far, as the model's cost counts them")
    seconds: float = Field(description="of training so far, without evaluations and checkpoints")
    joules: float | None = Field(default=None, description="of training so far; null: not measured here")
    loss: float | None = Field(default=None, description="nats a scored token, mean since the point before")
    learning_rate: float
    table_learning_rate: float | None = None
    gradient_norm: float | None = Field(default=None, description="before clipping, of the last step")
    metrics: dict[str, float | None] = Field(default_factory=dict, description="answer_nll, em, f1, bits_learnt, …")


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
