"""PEER: product-key retrieval of experts with one hidden neuron (arXiv 2407.04153).

Expert i computes act(u_i · x) v_i; a head's k experts are weighted by the softmax of their
retrieval scores. All k experts of every head are used.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from membench.layers.spec import accounting, sharding
from membench.layers.spec.base import WIDTH_MULTIPLE, FreeDimension
from membench.layers.spec.cost import Cost, MemoryNeed, StageCost, Step
from membench.layers.spec.dense import swiglu_activation_bytes, swiglu_params
from membench.layers.spec.quantities import INDEX_BYTES, SCORE_BYTES
from membench.layers.spec.retrieval import RetrievalSpec

_KEYS = (FreeDimension(name="num_keys", square=True, minimum=4),)
_COMPANION = (FreeDimension(name="companion_hidden", step=WIDTH_MULTIPLE, minimum=0),)
TABLES = 2  # u (down) and v (up)


class PeerSpec(RetrievalSpec):
    """N one-neuron experts: two tables of N x d."""

    FREE: ClassVar = {
        "params": _KEYS,
        "stored_bytes": _KEYS,
        "flops_per_token": _COMPANION,
        "moved_bytes": _COMPANION,
    }

    kind: Literal["peer"] = "peer"
    heads: PositiveInt = Field(default=8, le=2**12, description="H, heads")
    top_k: PositiveInt = Field(default=16, description="k, experts a head uses")
    companion_hidden: NonNegativeInt = Field(default=0, description="hidden width of a dense FFN added beside")

    @property
    def has_companion(self) -> bool:
        return self.companion_hidden > 0

    @property
    def table_params(self) -> int:
        return TABLES * self.num_keys * self.model_dim

    @property
    def row_tables(self) -> int:
        return TABLES

    @property
    def layer_params(self) -> int:
        """Everything but the two tables."""
        return self.retrieval_params + swiglu_params(self.model_dim, self.companion_hidden)

    def split_error(self, ranks: int) -> str | None:
        return self.shard_error(1, ranks)

    def shard_error(self, row_shards: int, column_shards: int) -> str | None:
        return sharding.shard_error(self.num_keys, row_shards, self.model_dim, column_shards, "expert")

    def best_row_shards(self, ranks: int) -> int:
        """R of the way of cutting both tables by which a training step sends less: 1, by columns, or all, by rows.

        By columns a token sends (P-1)·H·k·(s_i + 5·s_p) + 4·d·s·(P-1)/P bytes of indices, scores, products, tokens
        and results, by rows H·k·(s_i + 2·s_p)·(P-1)/P + 4·(P-1)·d·s, s_i then being that of a shard's row.
        """
        columns, rows = self.shard_index_bytes(1) + 5 * SCORE_BYTES, self.shard_index_bytes(ranks) + 2 * SCORE_BYTES
        saved = 4 * self.model_dim * self.item_bytes * (ranks - 1)
        less = self.lookups_per_token * (ranks * columns - rows) < saved
        return 1 if less and not self.shard_error(1, ranks) else ranks

    def cost(self, step: Step) -> Cost:
        """Over ranks by columns u·x is a partial sum of d/C columns, reduced before the activation."""
        if error := self.shard_error(step.row_shards, step.column_shards):
            raise ValueError(error)
        d, s, mode = self.model_dim, self.item_bytes, step.mode
        tokens, columns, group = step.tokens, d // step.column_shards, step.group_tokens
        lookups = step.of_row_shard(group * self.lookups_per_token)
        rows = self.expected_rows(group, step.zipf_exponent) / step.row_shards
        rows = rows if step.unique_rows is None else step.unique_rows
        stages = self.retrieval_stages(tokens, mode)
        backward = step.has_backward
        number = self.shard_index_bytes(step.row_shards)
        stages += expert_row_stages(step, lookups, rows, columns, s, index_bytes=number)
        if self.companion_hidden:
            stages += accounting.swiglu("companion_", tokens, d, self.companion_hidden, s, mode)
        state_rows = TABLES * step.of_row_shard(self.num_keys)
        table_share = state_rows * columns
        touched = TABLES * rows
        stages += accounting.update(self.layer_params, table_share, s, step.update)
        params = self.layer_params + self.table_params
        return Cost(
            params=params,
            active_params=self.layer_params + self.lookups_per_token * TABLES * d,
            rank_params=self.layer_params + table_share,
            stored_bytes=params * s,
            stages=tuple(stages),
            memory=MemoryNeed(
                weights=(self.layer_params + table_share) * s,
                gradients=(self.layer_params + accounting.table_gradients(step, touched * columns, table_share)) * s
                if backward
                else 0,
                optimizer=accounting.optimizer_state_bytes(
                    self.layer_params, table_share, state_rows, s, step.optimizer
                ),
                activations=self.retrieval_activation_bytes(tokens, mode)
                + lookups * (number + 4 * SCORE_BYTES) * (2 if backward else 1)
                + group * columns * s * 4
                + swiglu_activation_bytes(tokens, d, self.companion_hidden, s, mode),
            ),
            communication_bytes=self._communication(step, touched),
            lookups=lookups,
            unique_rows=rows,
            is_expectation=step.unique_rows is None,
        )

    def _communication(self, step: Step, touched_rows: float) -> dict[str, float]:
        """Lookups, tokens, products and results of the shared tables; gradients of what every rank holds whole."""
        if step.ranks == 1:
            return {}
        lookups, row_bytes = step.tokens * self.lookups_per_token, self.model_dim * self.item_bytes
        return sharding.added(
            sharding.lookup_bytes(step, lookups, self.shard_index_bytes(step.row_shards), weights_by_columns=False),
            sharding.product_bytes(step, row_bytes, lookups),
            sharding.result_bytes(step, row_bytes),
            sharding.row_square_bytes(step, touched_rows),
            accounting.replica_gradients(self.layer_params, self.item_bytes, step),
        )


def expert_row_stages(
    step: Step, lookups: float, unique_rows: float, columns: int, item_bytes: int, *, index_bytes: int = INDEX_BYTES
) -> list[StageCost]:
    """u·x and the weighted v over both tables, 4·L·d FLOPs; x is read too, and backward dx written.

    Of the tokens of all ranks; ``columns`` are this rank's. Backward, dx is a bag over u's rows, which are read once a
    lookup again. The gradients of u are sums of tokens, for which its rows are not read; an update then reads them.
    """
    tokens = step.group_tokens
    rows = accounting.row_reads(
        "experts",
        step,
        lookups=lookups,
        unique_rows=unique_rows,
        row_elements=columns,
        tables=TABLES,
        bag_elements=tokens * columns,
        item_bytes=item_bytes,
        index_bytes=index_bytes,
    )
    tokens_moved = tokens * columns * item_bytes
    row_bytes = columns * item_bytes
    once = 0.0 if accounting.updates_in_backward(step) else unique_rows * row_bytes
    issued = lookups * row_bytes - once
    dram = accounting.dram_row_bytes(lookups, unique_rows, row_bytes, step.cache_bytes) - once
    return [
        replace(
            each,
            stream_bytes=each.stream_bytes + tokens_moved,
            row_bytes_issued=each.row_bytes_issued + issued * each.backward,
            row_bytes_dram_expected=each.row_bytes_dram_expected + dram * each.backward,
        )
        for each in rows
    ]
