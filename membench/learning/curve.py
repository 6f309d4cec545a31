"""A place of a training run's curve, as a process tells it and a result file keeps it."""

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
