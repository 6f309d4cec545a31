"""The face between the ranks that share a layer. A layer is written once, against this.

There are three: ``Exchange`` itself is that of a rank which has the layer alone; ``SimulatedExchange`` that of one rank
of P whose others are stood in for; ``DistributedExchange`` is between processes.

Letters: P = R·C ranks, R shards of a table's rows and C of its columns, B tokens of this rank, M tokens of all,
L lookups a token, D columns of a table, d model dim, E experts.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from membench.layers.kernels.dispatch import Dispatch, from_counts
from membench.layers.kernels.lookups import Lookups
from membench.layers.parallel.remote import Remote, RemoteAssignments
from membench.layers.spec import Spec
from membench.layers.tables.value_table import ValueTable

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

DenseWay = Literal["replicas", "fsdp", "tensor"]


class TableCall:
    """What this rank's shard of a table reads in one call, and how results come back to the tokens' ranks.

    Attributes:
        lookups: (M, L) rows of the shard; under row sharding L is that of the token with most rows here.
        weights: (M, L) fp32.
    """

    def __init__(self, lookups: Lookups, weights: Tensor) -> None:
        self.lookups, self.weights = lookups, weights

    def give_back(self, bags: Tensor) -> Tensor:
        """(B, D): of bags (M, D/C), sums over row shards, all columns of this rank's tokens."""
        return bags

    def columns_of(self, x: Tensor) -> Tensor:
        """(M, d/C): of the tokens x (B, d) of every rank, the columns that this rank's shard has."""
        return x

    def whole_products(self, dots: Tensor) -> Tensor:
        """(M, L) of this shard's columns' share of it. Each column shard then computes the same from it."""
        return dots

    def of_all_columns(self, scaled: Tensor) -> Tensor:
        """Unchanged (M, L), but its gradient is the sum of what the column shards find for it."""
        return scaled


class ExpertCall:
    """What this rank's experts compute in one call, and how results come back.

    Attributes:
        tokens: (M, d) that ``dispatch`` numbers.
        weight: (rows,) of the rows of ``dispatch``.
    """

    def __init__(self, tokens: Tensor, weight: Tensor, dispatch: Dispatch) -> None:
        self.tokens, self.weight, self.dispatch = tokens, weight, dispatch

    def give_back(self, y: Tensor) -> Tensor:
        """(B, d) results of this rank's tokens, of y (M, d)."""
        return y


class Exchange:
    """What a rank holds of a layer, and what it gives to the others; here of one that has all of it.

    Attributes:
        ranks: P.
        rank: this one's number.
        stand_ins: ranks whose tokens are drawn here, because nobody else has them.
        dense: how the ranks share a dense layer: each has all of it; or its matrices are cut, and gathered for each
            use; or they are cut by the hidden width, and each rank computes its part of all tokens.
    """

    ranks: int = 1
    rank: int = 0
    stand_ins: int = 0
    dense: DenseWay = "replicas"

    @property
    def together(self) -> bool:
        """Whether there are other processes, which make the same calls."""
        return False

    def split_error(self, spec: Spec) -> str | None:
        """Why a layer cannot be shared in this way, or None."""
        return spec.split_error(self.ranks)

    def rows_held(self, num_rows: int) -> tuple[int, int]:
        """First and past the last of a table's rows on this rank."""
        return 0, num_rows

    def columns_held(self, columns: int) -> tuple[int, int]:
        """First and past the last of a table's columns on this rank."""
        return 0, columns

    def experts_held(self, num_experts: int) -> tuple[int, int]:
        """First and past the last expert on this rank."""
        return 0, num_experts

    def read(
        self, rows: Tensor, weights: Tensor, num_rows: int, remote: Remote | None, *, weights_by_columns: bool
    ) -> TableCall:
        """Gives every rank the lookups, rows (B, L) of ``num_rows`` and weights (B, L), that its shard can serve.

        Args:
            remote: what stands in for other ranks.
            weights_by_columns: whether the gradients of ``TableCall.weights`` are a part for each column shard, and
                their sum is wanted; else each shard has the whole.

        Raises:
            ValueError: ``remote`` is not what an exchange of so many ranks needs.
        """
        del weights_by_columns
        if remote is not None:
            raise ValueError("a whole table has no other ranks, whose lookups Routing.remote could stand in for")
        return TableCall(Lookups(rows, num_rows), weights)

    def assigned(self, remote: Remote | None, tokens: int, top_k: int) -> Dispatch | None:
        """The dispatch of what stands in for other ranks' tokens; None: of what the tokens choose.

        Raises:
            ValueError: these tokens cannot stand in for as many rows.
        """
        return from_counts(remote.counts, tokens, top_k) if isinstance(remote, RemoteAssignments) else None

    def send(self, x: Tensor, weight: Tensor, dispatch: Dispatch) -> ExpertCall:
        """Sends tokens x (B, d) to the ranks of their experts. ``dispatch`` is over all E; ``weight`` of its rows."""
        return ExpertCall(x, weight, dispatch)

    def scores_of_all(self, scores: Tensor) -> tuple[Tensor, int]:
        """(M, E) of the scores (B, E) of each rank, without gradient, and which of them is the first of this rank's."""
        return scores.detach(), 0

    def tokens_of_all(self, x: Tensor) -> int:
        """How many there are of all ranks' x (B, ...)."""
        return len(x)

    def most_tokens(self, x: Tensor) -> int:
        """Of the rank whose x (B, ...) has most."""
        return len(x)

    def mesh(self, device_type: str) -> "DeviceMesh":
        """Of replicas and the ranks of each, where there are replicas; else of the ranks.

        Raises:
            ValueError: there are no processes.
        """
        raise ValueError("one process is no mesh: connect() says who the others are")

    def total(self, counts: Tensor, name: str = "all_reduce_numbers") -> Tensor:
        """The sum of numbers over ranks, as the stage ``name``."""
        del name
        return counts

    def total_of_step(self, counts: Tensor) -> Tensor:
        """The sum of numbers over ranks and replicas: of all tokens that a step learns from."""
        return counts

    @property
    def over_columns(self) -> Callable[[Tensor], Tensor] | None:
        """Gives the mean over column shards of numbers (U,) of the same rows; None: there is one shard."""
        return None

    def of_everyone(self, x: Tensor) -> Tensor:
        """(…·B, …): of x (B, …) of every rank and replica, who have as many, without gradient."""
        return x.detach()

    def whole_rows(self, values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        """(U, D): numbers of a table's rows (U,), of what each shard has of them.

        Args:
            values: (V, D/C) of those V of ``rows`` that this rank holds, in their order.
            rows: the same on all ranks.
            num_rows: of the whole table.
        """
        del rows, num_rows
        return values

    def sum_gradients_(self, whole: Sequence[Tensor], shards: Sequence[Tensor], tables: Sequence[ValueTable]) -> None:
        """Adds up gradients in place: of what every rank holds ``whole`` over ranks and replicas, of shards over
        replicas. Of tables only rows that were read are sent."""
