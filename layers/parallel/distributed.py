"""The exchange between processes, over torch.distributed.

Letters: P = R·C ranks, R shards of a table's rows and C of its columns, B tokens of this rank, M tokens of all,
L lookups a token, D columns of a table, d model dim, E experts.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any, Self, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from membench.layers.kernels.dispatch import Dispatch, by_expert, combine
from membench.layers.kernels.lookups import Lookups, index_dtype
from membench.layers.parallel.collectives import (
    Gather,
    Swap,
    back,
    gradient_summed,
    lookups_there,
    sizes_of_all,
    summed,
    there,
    total,
)
from membench.layers.parallel.exchange import DenseWay, Exchange, ExpertCall, TableCall
from membench.layers.parallel.gradients import sum_, sum_rows_
from membench.layers.parallel.ragged import Ragged, blocks_in_turn, by_owner
from membench.layers.parallel.remote import Remote
from membench.layers.spec import Spec
from membench.layers.spec.expectation import rank_bounds
from membench.layers.tables.value_table import ValueTable


class DistributedExchange(Exchange):
    """Between the P = R·C ranks of a group, each of which has a row shard r and a column shard c of every table.

    All of them make the same calls in the same order, each with its own tokens, of which it may have none.

    Args:
        group: of all P.
        rows_group: of the R ranks with this column shard.
        columns_group: of the C ranks with this row shard.
        rows_inside: whether rank c·R + r has them, so that neighbours have other rows; else rank r·C + c.
        replicas_group: of the ranks that hold the same shards and train on other tokens; None: there are no others.
        dense: how the ranks of a replica share a dense layer.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        rows_group: dist.ProcessGroup,
        columns_group: dist.ProcessGroup,
        replicas_group: dist.ProcessGroup | None = None,
        dense: DenseWay = "replicas",
        *,
        rows_inside: bool = False,
    ) -> None:
        self.group, self.rows_group, self.columns_group = group, rows_group, columns_group
        self.replicas_group, self.dense = replicas_group, dense
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.row_shards, self.column_shards = dist.get_world_size(rows_group), dist.get_world_size(columns_group)
        self.row, self.column = dist.get_rank(rows_group), dist.get_rank(columns_group)
        self._rows_inside = rows_inside

    @property
    def together(self) -> bool:
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of a layer talks to the same ranks."""
        return self

    def split_error(self, spec: Spec) -> str | None:
        if self.dense == "tensor" and (error := spec.tensor_error(self.ranks)):
            return error
        return spec.shard_error(self.row_shards, self.column_shards)

    def rows_held(self, num_rows: int) -> tuple[int, int]:
        bounds = rank_bounds(num_rows, self.row_shards)
        return bounds[self.row], bounds[self.row + 1]

    def columns_held(self, columns: int) -> tuple[int, int]:
        share = columns // self.column_shards
        return self.column * share, (self.column + 1) * share

    def experts_held(self, num_experts: int) -> tuple[int, int]:
        bounds = rank_bounds(num_experts, self.ranks)
        return bounds[self.rank], bounds[self.rank + 1]

    def read(
        self, rows: Tensor, weights: Tensor, num_rows: int, remote: Remote | None, *, weights_by_columns: bool
    ) -> TableCall:
        _refuse(remote)
        tokens = self._by_shard(self._sizes_of_all(rows))
        first, past = self.rows_held(num_rows)
        if self.row_shards == 1:
            rows = rows.to(index_dtype(num_rows))
            route = Gather(tokens[0], self.columns_group, alike=not weights_by_columns)
            rows, weights = lookups_there(rows, weights, route, "all_gather_lookups", "reduce_scatter_weights")
        else:
            rows, weights = self._to_owners(rows, weights, num_rows, tokens, alike=not weights_by_columns)
        return DistributedTableCall(Lookups(rows, past - first), weights, self, tokens)

    def _to_owners(
        self, rows: Tensor, weights: Tensor, num_rows: int, tokens: list[list[int]], *, alike: bool
    ) -> tuple[Tensor, Tensor]:
        """(M, most) lookups of this rank's row shard, by their numbers in it, tokens in the order of the shards."""
        bounds = rank_bounds(num_rows, self.row_shards)
        order, counts, rows = by_owner(rows, bounds)
        rows = rows.to(index_dtype(max(past - first for first, past in pairwise(bounds))))
        of_column = [row[self.column] for row in tokens]
        route = Swap([len(rows)] * self.row_shards, of_column, self.rows_group)
        got = there(counts.int().flatten(), route, "all_to_all_counts")
        sent, received = counts.sum(1).tolist(), [int(part.sum()) for part in got.split(of_column)]
        route = Swap(sent, received, self.rows_group)
        flat = (rows.flatten()[order], weights.flatten()[order])
        flat = lookups_there(*flat, route, "all_to_all_lookups", "all_to_all_weights")
        if self.column_shards > 1:
            flat_sizes = sizes_of_all(len(flat[0]), self.columns_group, rows.device, "all_gather_lookup_sizes")
            of_tokens = [sum(column) for column in zip(*tokens, strict=True)]
            got = there(got, Gather(of_tokens, self.columns_group), "all_gather_counts")
            route = Gather(flat_sizes, self.columns_group, alike=alike)
            flat = lookups_there(*flat, route, "all_gather_lookups", "reduce_scatter_weights")
        return Ragged(*flat, got.long()).padded(blocks_in_turn(tokens, rows.device))

    def send(self, x: Tensor, weight: Tensor, dispatch: Dispatch) -> ExpertCall:
        counts = torch.diff(dispatch.ends, prepend=dispatch.ends.new_zeros(1))
        held = [past - first for first, past in pairwise(rank_bounds(len(counts), self.ranks))]
        own = held[self.rank]
        received = there(counts, Swap(held, [own] * self.ranks, self.group), "all_to_all_loads")
        of_ranks = torch.stack(
            [torch.stack([part.sum() for part in counts.split(held)]), received.view(self.ranks, own).sum(1)]
        )
        sent, got = of_ranks.tolist()
        route = Swap(sent, got, self.group)
        tokens = there(x.index_select(0, dispatch.token), route, "all_to_all_tokens")
        experts = torch.arange(own, device=x.device).repeat(self.ranks)
        here = by_expert(experts.repeat_interleave(received)[:, None], own)
        return DistributedExpertCall(tokens, weight, here, route, dispatch)

    def assigned(self, remote: Remote | None, tokens: int, top_k: int) -> Dispatch | None:
        _refuse(remote)
        return None

    def scores_of_all(self, scores: Tensor) -> tuple[Tensor, int]:
        tokens = self._sizes_of_all(scores)
        everyone = there(scores.detach(), Gather(tokens, self.group), "all_gather_scores")
        return everyone, sum(tokens[: self.rank])

    def tokens_of_all(self, x: Tensor) -> int:
        return sum(self._sizes_of_all(x))

    def most_tokens(self, x: Tensor) -> int:
        return max(self._sizes_of_all(x))

    def mesh(self, device_type: str) -> DeviceMesh:
        if self.replicas_group is None:
            return DeviceMesh.from_group(self.group, device_type, mesh_dim_names=("ranks",))
        replicas = dist.get_world_size(self.replicas_group)
        processes = torch.arange(replicas * self.ranks).view(replicas, self.ranks)
        groups = [self.replicas_group, self.group]
        return DeviceMesh.from_group(groups, device_type, mesh=processes, mesh_dim_names=("replicas", "ranks"))

    def total(self, counts: Tensor, name: str = "all_reduce_numbers") -> Tensor:
        return total(counts, self.group, name)

    def total_of_step(self, counts: Tensor) -> Tensor:
        of_share = self.total(counts, "all_reduce_step_loads")
        return (
            of_share if self.replicas_group is None else total(of_share, self.replicas_group, "all_reduce_step_loads")
        )

    @property
    def over_columns(self) -> Callable[[Tensor], Tensor] | None:
        return self._mean_over_columns if self.column_shards > 1 else None

    def _mean_over_columns(self, numbers: Tensor) -> Tensor:
        return total(numbers, self.columns_group, "all_reduce_row_squares") / self.column_shards

    def of_everyone(self, x: Tensor) -> Tensor:
        found = Gather([len(x)] * self.ranks, self.group).there(x.detach())
        if self.replicas_group is None:
            return found
        return Gather([len(found)] * dist.get_world_size(self.replicas_group), self.replicas_group).there(found)

    def whole_rows(self, values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        (first, past), own = self.rows_held(num_rows), values.shape[1]
        whole = values.new_zeros(len(rows), own * self.column_shards)
        whole[(rows >= first) & (rows < past), self.column * own : (self.column + 1) * own] = values
        return self.total(whole)

    def sum_gradients_(self, whole: Sequence[Tensor], shards: Sequence[Tensor], tables: Sequence[ValueTable]) -> None:
        if self.ranks > 1:
            sum_(whole, self.group)
        if self.replicas_group is not None:
            sum_([*whole, *shards], self.replicas_group)
            for table in tables:
                sum_rows_(table, self.replicas_group)

    def _sizes_of_all(self, x: Tensor) -> list[int]:
        """How many tokens each rank has, of this one's x (B, ...)."""
        return sizes_of_all(len(x), self.group, x.device, "all_gather_sizes")

    def _by_shard(self, of_ranks: list[int]) -> list[list[int]]:
        """What each rank has, by row shard and column shard."""
        if self._rows_inside:
            return [of_ranks[row :: self.row_shards] for row in range(self.row_shards)]
        return [of_ranks[row * self.column_shards :][: self.column_shards] for row in range(self.row_shards)]


class DistributedTableCall(TableCall):
    """``tokens`` of each rank, by row shard and column shard; they come in that order."""

    def __init__(
        self, lookups: Lookups, weights: Tensor, exchange: DistributedExchange, tokens: list[list[int]]
    ) -> None:
        super().__init__(lookups, weights)
        self._exchange = exchange
        self._of_row = tokens[exchange.row]  # tokens of the ranks with this row shard
        self._by_row = Gather([sum(row) for row in tokens], exchange.rows_group)
        own = self._of_row[exchange.column]
        columns = exchange.column_shards
        self._by_column = Swap([own] * columns, self._of_row, exchange.columns_group)

    def give_back(self, bags: Tensor) -> Tensor:
        exchange = self._exchange
        if exchange.row_shards > 1:
            bags = back(bags, self._by_row, "reduce_scatter_columns", "all_gather_column_gradients")
        if exchange.column_shards == 1:
            return bags
        parts = back(bags, self._by_column, "all_to_all_columns")
        return parts.view(exchange.column_shards, -1, bags.shape[1]).transpose(0, 1).flatten(1)

    def columns_of(self, x: Tensor) -> Tensor:
        exchange = self._exchange
        if (columns := exchange.column_shards) > 1:
            parts = x.view(len(x), columns, x.shape[1] // columns).transpose(0, 1).flatten(0, 1)
            x = there(parts, self._by_column, "all_to_all_token_columns")
        if exchange.row_shards == 1:
            return x
        return there(x, self._by_row, "all_gather_token_columns", "reduce_scatter_token_gradients")

    def whole_products(self, dots: Tensor) -> Tensor:
        exchange = self._exchange
        return dots if exchange.column_shards == 1 else summed(dots, exchange.columns_group, "all_reduce_products")

    def of_all_columns(self, scaled: Tensor) -> Tensor:
        exchange = self._exchange
        if exchange.column_shards == 1:
            return scaled
        return gradient_summed(scaled, exchange.columns_group, "all_reduce_products")


class DistributedExpertCall(ExpertCall):
    """Results come back unweighted, and their tokens' rank weighs them: no weight is sent."""

    def __init__(self, tokens: Tensor, weight: Tensor, here: Dispatch, route: Swap, sent: Dispatch) -> None:
        super().__init__(tokens, torch.ones(len(tokens), dtype=weight.dtype, device=weight.device), here)
        self._of_sent, self._route, self._sent = weight, route, sent

    def give_back(self, y: Tensor) -> Tensor:
        rows = back(y, self._route, "all_to_all_results")
        return combine(rows * self._of_sent[:, None].to(rows.dtype), self._sent)


def _refuse(remote: Remote | None) -> None:
    if remote is not None:
        raise ValueError("the other ranks are there: Routing.remote, which stands in for them, should be None")


def connect(
    row_shards: int = 1,
    *,
    replicas: int = 1,
    rows_inside: bool = False,
    dense: DenseWay = "replicas",
    timeout: timedelta | None = None,
) -> DistributedExchange:
    """The exchange of this process with the others of torch.distributed, which all call this alike.

    Process g·P + r is rank r of replica g, and P = R·C the number of processes over that of replicas.

    Args:
        row_shards: R; ``spec.best_row_shards(P)`` is what sends least.
        rows_inside: whether neighbouring ranks, such as those of a host, hold other rows; else other columns of the
            same rows.
        dense: how the ranks of a replica share a dense layer: each has all of it (``replicas``), or by PyTorch's fully
            sharded data parallel (``fsdp``) or tensor parallel (``tensor``).
        timeout: after which a rank that waits for another gives up; None: torch's default.

    Raises:
        ValueError: the processes cannot be divided so, or there is no such way.
    """
    processes = dist.get_world_size()
    if processes % (replicas * row_shards):
        raise ValueError(f"{processes} processes are not {replicas} replicas of {row_shards} row shards")
    if dense not in get_args(DenseWay):
        raise ValueError(f"dense should be one of {', '.join(get_args(DenseWay))}, not {dense!r}")
    grid = torch.arange(processes).view(replicas, row_shards, -1)
    if rows_inside:
        grid = torch.arange(processes).view(replicas, -1, row_shards).transpose(1, 2)

    def group(lists: Tensor) -> dist.ProcessGroup:
        found, _ = dist.new_subgroups_by_enumeration(lists.tolist(), timeout=timeout)
        assert isinstance(found, dist.ProcessGroup)
        return found

    of_share, of_replicas = group(grid.flatten(1)), group(grid.flatten(1).T)
    of_rows, of_columns = group(grid.transpose(1, 2).flatten(0, 1)), group(grid.flatten(0, 1))
    of_replicas = of_replicas if replicas > 1 else None
    return DistributedExchange(of_share, of_rows, of_columns, of_replicas, dense, rows_inside=rows_inside)
