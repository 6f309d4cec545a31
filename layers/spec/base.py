"""What every kind's config has in common."""

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from membench.layers.spec.cost import Cost, Mode, Optimizer
from membench.layers.spec.quantities import ITEM_BYTES, DTypeName

WIDTH_MULTIPLE = 64  # solved widths stay multiples of this on every arm
BudgetName = str


class FreeDimension(BaseModel):
    """A dimension the budget solver may choose.

    ``step`` is its grid; ``coarse`` marks one that is rounded down so that the next free
    dimension of the same budget (a companion, shared experts) takes the remainder.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    step: int = 1
    minimum: int = 1
    coarse: bool = False
    square: bool = False  # searched over its square root (key counts)


class Spec(BaseModel):
    """A layer's or an operator's typed config. Frozen; unknown keys and senseless values are refused.

    ``FREE`` names, per budget, the dimensions a solver may choose to meet it, in the
    order in which they are tried. ``ROUTED`` is False where the workload's routing has no effect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FREE: ClassVar[dict[BudgetName, tuple[FreeDimension, ...]]] = {}
    ROUTED: ClassVar[bool] = True

    dtype: DTypeName = "bfloat16"

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def table_params(self) -> int:
        """Parameters in tables, of which a step reads few."""
        return 0

    def input_bytes(self, tokens: int) -> float:
        """Bytes of the inputs of so many tokens, rows of tables left out."""
        raise TypeError(f"{type(self).__name__} must define input_bytes()")

    @property
    def labels(self) -> tuple[str, ...]:
        """Words a table must show beside this layer's name (``non-causal``, …)."""
        return ()

    def cost(
        self,
        tokens: int,
        *,
        mode: Mode = "forward",
        optimizer: Optimizer | None = None,
        unique_rows: float | None = None,
        active_experts: float | None = None,
        assignments: float | None = None,
        ranks: int = 1,
        zipf_exponent: float = 0.0,
        cache_bytes: float = 0.0,
    ) -> Cost:
        """The cost of one step on ``tokens`` tokens of one of ``ranks`` ranks.

        Args:
            tokens: b, tokens of this rank (the group computes ranks·b).
            mode: what is computed; ``prefill`` and ``decode`` are forward passes.
            optimizer: counted in mode ``train_step``, which needs one.
            unique_rows: U, distinct table rows the group's tokens read; expected if None.
            active_experts: distinct experts of this rank that got a token; expected if None.
            assignments: (token, expert) pairs this rank computes; expected if None.
            ranks: P, how many ranks share the layer.
            zipf_exponent: skew assumed where U, active experts or assignments are expected.
            cache_bytes: last-level cache, for ``bytes_dram_expected``.

        Raises:
            ValueError: the layer cannot be split over ``ranks``.
        """
        raise TypeError(f"{type(self).__name__} must define cost()")

    def split_error(self, ranks: int) -> str | None:
        """Why this layer cannot be shared by ``ranks`` ranks, or None."""
        del ranks
        return None

    def mode_error(self, mode: Mode, optimizer: Optimizer | None) -> str | None:
        """Why this cannot run in a mode, with an optimizer, or None."""
        del mode, optimizer
        return None

    def with_dimensions(self, **dimensions: int) -> Self:
        """A validated copy with other dimensions."""
        return type(self).model_validate({**self.model_dump(), **dimensions})

    def under_first_names(self) -> Self:
        """The same, by the first names of what was renamed since: what is told apart by names stays the same."""
        return self


class TokenSpec(Spec):
    """The config of what maps tokens of width d to tokens of width d."""

    model_dim: PositiveInt = Field(le=2**20, description="d, width of a token")

    def input_bytes(self, tokens: int) -> float:
        return float(tokens * self.model_dim * self.item_bytes)
