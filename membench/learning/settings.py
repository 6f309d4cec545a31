"""How a model is trained: batch, rates, schedule, when it stops, and how its rates are chosen."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from membench.layers.spec import Optimizer
from membench.layers.spec.quantities import format_quantity

StopAt = Literal["steps", "tokens", "flops", "seconds", "joules"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stop(_Part):
    """Where training ends: exactly one is stated, and it is the budget that all arms share.

    The schedule runs over it: a rate is a function of the share of the budget that is spent.
    """

    steps: PositiveInt | None = Field(default=None, description="updates")
    tokens: PositiveFloat | None = Field(default=None, description="tokens trained on, over all steps")
    flops: PositiveFloat | None = Field(default=None, description="training FLOPs, as the model's cost counts them")
    seconds: PositiveFloat | None = Field(default=None, description="of training, evaluation apart")
    joules: PositiveFloat | None = Field(default=None, description="of the device's counters, evaluation apart")

    @model_validator(mode="after")
    def _check(self) -> Self:
        stated = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(stated) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"should state one of {known}, not {' and '.join(stated) or 'none'}")
        return self

    @property
    def at(self) -> StopAt:
        """What is counted."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)  # type: ignore[return-value]

    @property
    def amount(self) -> float:
        """How much of it."""
        return float(getattr(self, self.at))

    @property
    def in_words(self) -> str:
        """As in ``2.5T FLOPs``."""
        return f"{format_quantity(self.amount)} {'FLOPs' if self.at == 'flops' else self.at}"


class Tuning(_Part):
    """A grid of rates, the same for every arm, tried on seeds that the result does not use.

    The best by ``answer_nll`` counts. Where it lies on an edge of the grid, the grid grows by one rate beyond that
    edge, up to ``widenings`` times, and every arm is given as many trials as any.
    """

    learning_rates: tuple[PositiveFloat, ...] = Field(min_length=1, description="of matrices")
    table_learning_rates: tuple[PositiveFloat, ...] = Field(default=(), description="of tables; arms without skip it")
    balance_weights: tuple[NonNegativeFloat, ...] = Field(default=(), description="of mixtures' balancing loss")
    seeds: PositiveInt = Field(default=1, le=100, description="a trial is the mean over so many")
    share: float = Field(default=1.0, gt=0, le=1, description="of the budget that a trial is trained for")
    widenings: int = Field(default=2, ge=0, le=8, description="how often a grid may grow")


class Training(_Part):
    """One training run, but for its model, task and seed."""

    stop: Stop = Field(description="where training ends; the same for every arm")
    sequences: PositiveInt = Field(default=64, le=2**20, description="samples of the task in a step")
    accumulate: PositiveInt = Field(default=1, le=2**16, description="parts that a step's sequences are computed in")
    optimizer: Optimizer = Field(default="row_adam", description="of tables; matrices are trained by AdamW, or SGD")
    learning_rate: PositiveFloat = Field(default=3e-3, description="of matrices, at its peak")
    table_learning_rate: PositiveFloat | None = Field(default=None, description="of tables; as matrices if left out")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="after the warm-up")
    table_schedule: Literal["same", "constant"] = Field(
        default="constant", description="constant: no warm-up, no decay"
    )
    warmup_share: float = Field(default=0.04, ge=0, lt=1, description="of the budget, in which the rate rises from 0")
    final_rate: NonNegativeFloat = Field(default=0.1, le=1, description="at the end, as a share of the peak")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="of matrices, decoupled")
    table_weight_decay: NonNegativeFloat = Field(default=0.0, description="of tables, decoupled")
    clip_norm: PositiveFloat | None = Field(default=1.0, description="of all gradients, those of rows included")
    autocast: bool = Field(default=False, description="bf16 products over fp32 weights; GPUs")
    compiled: bool = Field(default=False, description="torch.compile of the blocks")
    evaluations: PositiveInt = Field(default=20, le=10_000, description="points of the curve, evenly over the budget")
    asked: PositiveInt = Field(default=4096, le=2**24, description="questions of an evaluation, at most")
    checkpoint_seconds: PositiveFloat = Field(default=60.0, description="between two; an interrupted run goes on there")
    frozen_tables: bool = Field(default=False, description="tables are not trained: what is left is what they give")
    seeds: PositiveInt = Field(default=5, le=1000, description="runs of an arm that the result is of")
    tuning: Tuning | None = Field(default=None, description="how rates are chosen; none: those that are stated")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sequences % self.accumulate:
            raise ValueError(f"sequences {self.sequences} should be a multiple of accumulate {self.accumulate}")
        return self
