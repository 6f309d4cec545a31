"""What every kind's config has in common."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from membench.layers.spec.cost import Cost, Mode, Optimizer, Step
from membench.layers.spec.expectation import RoutingKind
from membench.layers.spec.layout import Layout
from membench.layers.spec.quantities import ITEM_BYTES, DTypeName

WIDTH_MULTIPLE = 64  # solved widths stay multiples of this on every arm


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


@dataclass(frozen=True, slots=True)
class Choice:
    """What a layer chooses for each token, and a stated routing can choose in its place.

    Attributes:
        of: rows of tables, or experts.
        shape: of one token's indices: (H, k) rows or (K,) experts.
        count: how many there are to choose from, N or E; indices lie in 0 … count - 1.
    """

    of: Literal["rows", "experts"]
    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """What a whole is made of, where it is measured part by part.

    Attributes:
        name: what all wholes with the same part call it; None: it is the arm's own.
        level: at which it is measured.
        spec: its config.
        count: how many of it there are.
    """

    name: str | None
    level: Literal["block", "model"]
    spec: "Spec"
    count: int


class Spec(BaseModel):
    """A layer's or an operator's typed config: all that a plan asks of a kind. No torch.

    Frozen; unknown keys and senseless values are refused. A kind must say ``cost`` and ``input_bytes``; the rest has
    the answers of a layer that routes nothing and is counted by its config.

    ``FREE`` names, per budget, the dimensions a solver may choose to meet it, in the
    order in which they are tried. ``ROUTED`` is False where the workload's routing has no effect.
    ``COUNTED`` is False where the cost is known only when the layer is built. ``YARDSTICK`` is what its like is held
    against. ``SAMPLED`` is how much of an input the check against the reference compares: tokens, or sequences.
    ``SHARES_A_POOL``: layers of this kind can read one table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FREE: ClassVar[dict[str, tuple[FreeDimension, ...]]] = {}
    ROUTED: ClassVar[bool] = True
    COUNTED: ClassVar[bool] = True
    YARDSTICK: ClassVar[str] = "dense"
    SAMPLED: ClassVar[int] = 4
    SHARES_A_POOL: ClassVar[bool] = False

    dtype: DTypeName = Field(default="bfloat16", description="of weights and activations")

    @property
    def item_bytes(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def routed(self) -> bool:
        """Whether the workload's routing has an effect."""
        return self.ROUTED

    def most_inputs(self, streaming: int | None) -> int:
        """How many inputs a case rotates through at most.

        Args:
            streaming: so many stream past the caches by the weights alone that each of them needs; None: a cache holds
                these weights from one input to the next.
        """
        del streaming
        return 256

    @property
    def attends(self) -> bool:
        """Whether a step depends on the tokens that came before it."""
        return False

    def checked_activations(self, sequences: int, new_tokens: int) -> int:
        """Numbers that the check against the reference holds beside parameters, where these are many."""
        del sequences, new_tokens
        return 0

    @property
    def is_one_of_many(self) -> bool:
        """Whether it is a part of a model, whose other parts are used between two uses of this one."""
        return False

    @property
    def parts(self) -> tuple[Part, ...]:
        """What can be measured in its place, one by one, where it is too large; empty: it is one piece."""
        return ()

    def parts_error(self, mode: Mode) -> str | None:
        """Why the sum of its parts would not be it, in a mode, or None."""
        del mode
        return None

    @property
    def stacked_blocks(self) -> int:
        """Blocks that are computed one after the other, each on what the one before gives; 0: it is no model."""
        return 0

    @property
    def table_params(self) -> int:
        """Parameters in tables, of which a step reads few."""
        return 0

    @property
    def row_params(self) -> int:
        """Parameters of one row of its tables together; 0: it has none."""
        return 0

    @property
    def row_tables(self) -> int:
        """Tables among which the parameters of one row are."""
        return 0

    @property
    def num_tables(self) -> int:
        """Tables that it reads, each updated by itself."""
        return self.row_tables

    @property
    def step_load_bytes(self) -> int:
        """Of what a layer adds up of all tokens of a step, to balance; 0: nothing."""
        return 0

    @property
    def sharing_layers(self) -> int:
        """Layers in it that ranks share, each with messages of its own."""
        return 1

    def layouts(self, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
        """The ways in which P ranks can share this, the default first.

        Args:
            ranks: P.
            host_ranks: of them in one host, who are neighbours.
        """
        del host_ranks
        return (Layout("replicas", replicas=ranks),)

    def shared_by(self, name: str | None, ranks: int) -> Layout:
        """The way of this name in which P ranks of one host share this; None: the default.

        Raises:
            ValueError: there is none of this name.
        """
        ways = self.layouts(ranks, ranks)
        found = next((way for way in ways if name in (None, way.name)), None)
        if found is None:
            raise ValueError(f"cannot be shared by {name}: {' or '.join(way.name for way in ways)}")
        return found

    @property
    def balance_weight_used(self) -> float | None:
        """What its load-balancing loss is multiplied by; None where it has no such loss."""
        return None

    def balanced_by(self, weight: float) -> Self:
        """The same with this weight of its load-balancing loss; itself where it has none."""
        del weight
        return self

    def input_bytes(self, tokens: int) -> float:
        """Bytes of the inputs of so many tokens, rows of tables left out."""
        raise TypeError(f"{type(self).__name__} must define input_bytes()")

    @property
    def labels(self) -> tuple[str, ...]:
        """Words a table must show beside this layer's name (``non-causal``, …)."""
        return ()

    def arm_labels(self, given: Collection[str]) -> tuple[str, ...]:
        """The labels of an arm that states the dimensions ``given`` and leaves the others to its budgets."""
        del given
        return self.labels

    @property
    def is_yardstick(self) -> bool:
        """Whether it is what its like is held against."""
        return False

    @property
    def has_companion(self) -> bool:
        """Whether a dense FFN is computed beside it and added to its output."""
        return False

    @property
    def takes_best_path(self) -> bool:
        """Whether operators with several paths compute it, each on the best that the machine offers."""
        return False

    @property
    def choice_of_token(self) -> Choice | None:
        """What a stated routing chooses for a token in the layer's place; None where it chooses nothing."""
        return None

    def cost(self, step: Step) -> Cost:
        """What a step costs.

        Raises:
            ValueError: the layer cannot be split over the step's ranks.
        """
        raise TypeError(f"{type(self).__name__} must define cost()")

    def checked_params(self, sampled: int, new_tokens: int = 1) -> int:
        """Parameters that the check against the reference copies at a time, table rows left out.

        All that are in no table; of experts, those that the sampled tokens can touch.

        Args:
            sampled: tokens; of what has sequences as its inputs, sequences.
            new_tokens: of each sequence.
        """
        del sampled, new_tokens
        return self.cost(Step(1)).params - self.table_params

    def split_error(self, ranks: int) -> str | None:
        """Why this layer cannot be shared by ``ranks`` ranks, or None."""
        del ranks
        return None

    def shard_error(self, row_shards: int, column_shards: int) -> str | None:
        """Why ranks cannot share it, tables being cut into so many shards by rows and by columns, or None."""
        return self.split_error(row_shards * column_shards)

    def tensor_error(self, ranks: int) -> str | None:
        """Why its matrices cannot be cut by the hidden width over ranks, or None."""
        del ranks
        return None

    def tensor_cost(self, step: Step) -> Cost:
        """What a step costs one of ranks that cut its matrices so.

        Raises:
            ValueError: they cannot be cut.
        """
        raise ValueError(f"{step.ranks} ranks cut no layer but a dense one by its hidden width")

    def mode_error(self, mode: Mode, optimizer: Optimizer | None) -> str | None:
        """Why this cannot run in a mode, with an optimizer, or None."""
        del mode, optimizer
        return None

    def routing_error(self, routing: RoutingKind) -> str | None:
        """Why a routing of this kind cannot be imposed, or None."""
        del routing
        return None

    def under_first_names(self) -> Self:
        """The same, by the first names of what was renamed since: what is told apart by names stays the same."""
        return self


class TokenSpec(Spec):
    """The config of what maps tokens of width d to tokens of width d."""

    model_dim: PositiveInt = Field(le=2**20, description="d, width of a token")

    def input_bytes(self, tokens: int) -> float:
        return float(tokens * self.model_dim * self.item_bytes)
