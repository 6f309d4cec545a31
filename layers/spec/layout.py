"""How P ranks share a layer, and what a step of one of them then costs. Pure arithmetic, no torch."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from membench.layers.spec.collective import Collective, collectives, sending
from membench.layers.spec.cost import Cost, MemoryNeed, Step
from membench.layers.spec.quantities import SIZE_BYTES, index_bytes

if TYPE_CHECKING:
    from membench.layers.spec.base import Spec

SharedBy = Literal["columns", "rows", "experts", "replicas", "fsdp", "tensor"]  # layouts that real ranks can have
SHARED_BY: tuple[SharedBy, ...] = get_args(SharedBy)
PIECE_BYTES = 1e9  # of weights that are gathered at once: what is larger is wrapped in pieces


@dataclass(frozen=True, slots=True)
class Layout:
    """A group of P / ``replicas`` neighbouring ranks holds a layer once; groups exchange gradients.

    Attributes:
        name: what it is called in tables.
        replicas: groups.
        row_shards: R, of a group's shards of a table those of its rows; the others are of its columns.
        rows_inside: neighbouring ranks hold other rows; else other columns of the same rows.
        gathers: every matrix is cut over the group and gathered for each use (fully sharded data parallel).
        tensor: matrices are cut by the hidden width, and each rank computes its part of all tokens of the group.
    """

    name: str
    replicas: int = 1
    row_shards: int = 1
    rows_inside: bool = False
    gathers: bool = False
    tensor: bool = False

    def group(self, ranks: int) -> int:
        """Ranks that hold the layer once, of P in all."""
        return ranks // self.replicas

    def error(self, spec: "Spec", ranks: int) -> str | None:
        """Why P ranks cannot share a layer so, or None."""
        if self.gathers:
            return None
        if self.tensor:
            return spec.tensor_error(self.group(ranks))
        return spec.shard_error(self.row_shards, self.group(ranks) // self.row_shards)

    def cost(self, spec: "Spec", step: Step) -> tuple[Cost, list[Collective]]:
        """One rank's cost of a step of P = ``step.ranks``, and the collectives that it takes part in, in their order.

        Raises:
            ValueError: they cannot share it so.
        """
        group = self.group(step.ranks)
        if self.gathers:
            whole = spec.cost(replace(step, ranks=1))
            cost = _gathered(whole, step, group)
            layers = max(spec.stacked_blocks, -(-whole.memory.weights // PIECE_BYTES))
        elif self.tensor:
            cost, layers = spec.tensor_cost(replace(step, ranks=group)), spec.sharing_layers
        else:
            cost, layers = spec.cost(replace(step, ranks=group, row_shards=self.row_shards)), spec.sharing_layers
        found = collectives(
            cost.communication_bytes,
            ranks=group,
            row_shards=self.row_shards,
            rows_inside=self.rows_inside,
            backward=step.has_backward,
            layers=layers,
            tables=spec.num_tables,
            between=self._between_groups(spec, cost, group) if self.replicas > 1 else (),
        )
        if self.replicas > 1 and step.update and spec.step_load_bytes:
            loads = Collective("all_reduce", spec.step_load_bytes, self.replicas, group, spec.sharing_layers)
            found.append(loads)
        return cost, found

    def _between_groups(self, spec: "Spec", cost: Cost, group: int) -> list[Collective]:
        """Gradients of what a rank holds are summed over groups; of tables, those of the rows that were read.

        Of each table ranks first tell each other how many rows they have read, and then send which and their gradients.
        """
        columns = group // self.row_shards
        matrices = cost.rank_params - spec.table_params // group
        found = []
        if matrices:
            found.append(Collective("all_reduce", matrices * spec.item_bytes, self.replicas, group))
        if (tables := spec.num_tables) and cost.unique_rows:
            num_rows = spec.table_params * spec.row_tables // (spec.row_params * tables)
            sent = (
                SIZE_BYTES,
                cost.unique_rows * spec.row_tables * index_bytes(-(-num_rows // self.row_shards)) / tables,
                cost.unique_rows * spec.row_params * spec.item_bytes / columns / tables,
            )
            of_table = [sending("all_gather", (self.replicas - 1) * each, self.replicas, group) for each in sent]
            found += of_table * tables
        return found


def _gathered(whole: Cost, step: Step, group: int) -> Cost:
    """Of a layer that is cut over a group and gathered for each use, from its cost on one rank.

    Weights are gathered for the forward pass and again for the backward pass, whose gradients are scattered. A piece
    of the weights and the next one are held whole, and the gradients of one.
    """
    if group == 1:
        return whole
    need = whole.memory
    sent = need.weights * (group - 1) / group
    communication = {"all_gather_weights": sent}
    if step.has_backward:
        communication = {"all_gather_weights": 2 * sent, "reduce_scatter_gradients": sent}
    held = MemoryNeed(
        weights=need.weights / group,
        gradients=need.gradients / group,
        optimizer=need.optimizer / group,
        activations=need.activations + min(need.weights, 2 * PIECE_BYTES) + min(need.gradients, PIECE_BYTES),
        kv_cache=need.kv_cache,
    )
    stages = tuple(
        replace(stage, stream_bytes=stage.stream_bytes / group) if stage.name == "update" else stage
        for stage in whole.stages
    )
    params = -(-whole.rank_params // group)
    return replace(whole, rank_params=params, memory=held, stages=stages, communication_bytes=communication)


def cut_in_a_host(layout: Layout, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
    """The same within each host, hosts being replicas; none where there is one host, or one rank in each."""
    if not 1 < host_ranks < ranks:
        return ()
    return (replace(layout, name=f"{layout.name} in a host", replicas=ranks // host_ranks),)
