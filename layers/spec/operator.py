"""What the configs of single operators have in common: their paths, what they are given, their cost. No torch.

An operator is one stage of a layer by itself. What the layer would hand it (scores, or rows and their
weights) is drawn, and its formulas are those of the stage.

Letters: B tokens, L lookups, U distinct rows, D columns of a row.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.base import Spec
from membench.layers.spec.cost import Cost, MemoryNeed, Mode, Optimizer, StageCost, Step

Path = Literal["auto", "torch", "native", "triton", "plain"]
_DENSE_OPTIMIZERS = ("sgd", "adamw")  # what torch has for a dense gradient


class OperatorSpec(Spec):
    """One operator on one path.

    ``plain`` is the composition of torch's own calls that a user would write first. The other paths are
    this project's operator: by torch, by C++ on a CPU, by Triton on a GPU, or ``auto``, as layers take it.
    ``PATHS`` are those of them that an operator has; one that has a single way is only ``auto``.
    An operator chooses nothing itself: ``choice_of_token`` is what the workload's routing draws for it.
    ``TABLES`` is how many tables its rows are read of.
    """

    PATHS: ClassVar[tuple[Path, ...]] = ("torch", "native", "triton")
    TABLES: ClassVar[int] = 0
    YARDSTICK: ClassVar[str] = "plain"

    path: Path = Field(
        default="auto", description="whose code computes; plain: torch's own calls, as a user would write them"
    )

    @model_validator(mode="after")
    def _check_path(self) -> Self:
        known = ("auto", "plain", *self.PATHS)
        if self.path not in known:
            raise ValueError(f"path {self.path!r} is none of this operator; it has {', '.join(known)}")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.path == "auto" else (f"path {self.path}",)

    @property
    def is_yardstick(self) -> bool:
        return self.path == "plain"

    @property
    def takes_best_path(self) -> bool:
        return self.path == "auto" and bool(self.PATHS)

    @property
    def dense_params(self) -> int:
        """Parameters in no table."""
        return 0

    @property
    def table_columns(self) -> int:
        """D; 0 where there is no table."""
        return 0

    @property
    def read_params(self) -> int:
        """Parameters that one token uses."""
        return self.dense_params

    def lookups(self, tokens: int) -> int:
        """L, rows that so many tokens read of each table."""
        del tokens
        return 0

    def expected_touched(self, tokens: int, zipf_exponent: float) -> float:
        """Expected distinct rows of a table, or experts, that so many tokens use."""
        del tokens, zipf_exponent
        return 0.0

    def stages(self, step: Step, touched: float) -> list[StageCost]:
        """What is computed but for dense updates; ``touched`` is U, or the experts that got a token."""
        raise TypeError(f"{type(self).__name__} must define stages()")

    def activation_bytes(self, tokens: int) -> float:
        """Inputs, results and what lies between them in a forward pass."""
        raise TypeError(f"{type(self).__name__} must define activation_bytes()")

    def split_error(self, ranks: int) -> str | None:
        return "an operator is not split over ranks" if ranks > 1 else None

    def mode_error(self, mode: Mode, optimizer: Optimizer | None) -> str | None:
        """Why this operator cannot run in a mode, with an optimizer, or None."""
        if mode == "train_step" and not self.dense_params and not self.table_params:
            return f"{mode}: there is nothing to train"
        if self.path == "plain" and self.table_params and optimizer not in (None, *_DENSE_OPTIMIZERS):
            return f"path plain has a dense gradient, which {optimizer} is not for; sgd and adamw are"
        return None

    def cost(self, step: Step) -> Cost:
        """What must be done, the same on every path; only the memory is what ``plain`` needs of it."""
        if error := self.split_error(step.ranks):
            raise ValueError(error)
        drawn = self.choice_of_token.of if self.choice_of_token else None
        given = {"rows": step.unique_rows, "experts": step.active_experts, None: 0.0}[drawn]
        touched = self.expected_touched(step.tokens, step.zipf_exponent) if given is None else given
        update = accounting.update(self.dense_params, self.table_params, self.item_bytes, step.update)
        stages = [*self.stages(step, touched), *(stage for stage in update if stage.bytes_min)]
        params = self.dense_params + self.table_params
        return Cost(
            params=params,
            active_params=self.read_params,
            rank_params=params,
            stored_bytes=params * self.item_bytes,
            stages=tuple(stages),
            memory=self._memory(step, rows=touched * self.TABLES),
            lookups=self.lookups(step.tokens),
            unique_rows=touched if drawn == "rows" else None,
            active_experts=touched if drawn == "experts" else None,
            is_expectation=given is None,
        )

    def _memory(self, step: Step, rows: float) -> MemoryNeed:
        """Path plain has gradients and moments of whole tables; the others those of ``rows`` touched rows."""
        dense, table, s = self.dense_params, self.table_params, self.item_bytes
        gradients = accounting.table_gradients(step, rows * self.table_columns, table)
        if self.path == "plain":
            dense, table, gradients = dense + table, 0, 0.0
        table_rows = table / self.table_columns if table else 0.0
        backward = step.has_backward
        return MemoryNeed(
            weights=(dense + table) * s,
            gradients=(dense + gradients) * s if backward else 0,
            optimizer=accounting.optimizer_state_bytes(dense, table, table_rows, s, step.optimizer),
            activations=self.activation_bytes(step.tokens) * (2 if backward else 1),
        )
