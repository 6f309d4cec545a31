"""PEER: product-key retrieval of experts with one hidden neuron (arXiv 2407.04153).

Expert i computes act(u_i · x) v_i; a head's k experts are weighted by the softmax of their
retrieval scores. All k experts of every head are used.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from membench.layers.spec import accounting
from membench.layers.spec.base import WIDTH_MULTIPLE, FreeDimension
from membench.layers.spec.cost import Cost, MemoryNeed, Mode, Optimizer, StageCost, has_backward
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
    heads: PositiveInt = Field(default=8, le=2**12, description="H")
    top_k: PositiveInt = Field(default=16, description="k, experts a head uses")
    companion_hidden: NonNegativeInt = Field(default=0, description="hidden width of a dense FFN added beside")

    @property
    def table_params(self) -> int:
        return TABLES * self.num_keys * self.model_dim

    @property
    def layer_params(self) -> int:
        """Everything but the two tables."""
        return self.retrieval_params + swiglu_params(self.model_dim, self.companion_hidden)

    def split_error(self, ranks: int) -> str | None:
        if self.model_dim % ranks:
            return f"expert rows of {self.model_dim} columns cannot be cut into {ranks} equal column shards"
        return None

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
        """Column-sharded over ranks: u·x is a partial sum of d/P columns, reduced before the activation."""
        del active_experts, assignments
        if error := self.split_error(ranks):
            raise ValueError(error)
        d, s = self.model_dim, self.item_bytes
        columns, group = d // ranks, ranks * tokens
        lookups = group * self.lookups_per_token
        rows = self.expected_rows(group, zipf_exponent) if unique_rows is None else unique_rows
        stages = self.retrieval_stages(tokens, mode)
        backward = has_backward(mode)
        stages += expert_row_stages(group, lookups, rows, columns, s, cache_bytes, mode, optimizer)
        if self.companion_hidden:
            stages += accounting.swiglu("companion_", tokens, d, self.companion_hidden, s, mode)
        table_share = TABLES * self.num_keys * columns
        touched = TABLES * rows
        if mode == "train_step" and optimizer:
            stages += accounting.update(self.layer_params, table_share, s, optimizer)
        params = self.layer_params + self.table_params
        state_rows = TABLES * self.num_keys
        return Cost(
            params=params,
            active_params=self.layer_params + self.lookups_per_token * TABLES * d,
            rank_params=self.layer_params + table_share,
            stored_bytes=params * s,
            stages=tuple(stages),
            memory=MemoryNeed(
                weights=(self.layer_params + table_share) * s,
                gradients=(
                    self.layer_params + accounting.table_gradients(mode, optimizer, touched * columns, table_share)
                )
                * s
                if backward
                else 0,
                optimizer=accounting.optimizer_state_bytes(self.layer_params, table_share, state_rows, s, optimizer)
                if optimizer
                else 0,
                activations=self.retrieval_activation_bytes(tokens, mode)
                + lookups * (INDEX_BYTES + 4 * SCORE_BYTES) * (2 if backward else 1)
                + group * columns * s * 4
                + swiglu_activation_bytes(tokens, d, self.companion_hidden, s, mode),
            ),
            communication_bytes=self._communication(tokens, ranks, mode),
            lookups=lookups,
            unique_rows=rows,
            is_expectation=unique_rows is None,
        )

    def _communication(self, tokens: int, ranks: int, mode: Mode) -> dict[str, float]:
        """Indices gathered, x and y exchanged by columns, the fp32 partial products all-reduced."""
        if ranks == 1:
            return {}
        lookups, s = tokens * self.lookups_per_token, self.item_bytes
        passes = 2 if has_backward(mode) else 1
        columns = 2 * accounting.ring_bytes(tokens * self.model_dim * s, ranks)
        return {
            "all_gather_lookups": (ranks - 1) * lookups * (INDEX_BYTES + SCORE_BYTES),
            "all_to_all_columns": columns * passes,
            "all_reduce_products": 2 * (ranks - 1) * lookups * SCORE_BYTES * passes,
            **accounting.replica_gradients(self.layer_params, s, ranks, mode),
        }


def expert_row_stages(
    tokens: float,
    lookups: float,
    unique_rows: float,
    columns: int,
    item_bytes: int,
    cache_bytes: float,
    mode: Mode,
    optimizer: Optimizer | None,
) -> list[StageCost]:
    """u·x and the weighted v over both tables, 4·L·d FLOPs; x is read too, and backward dx written."""
    rows = accounting.row_reads(
        "experts",
        lookups=lookups,
        unique_rows=unique_rows,
        row_elements=columns,
        tables=TABLES,
        bag_elements=tokens * columns,
        item_bytes=item_bytes,
        cache_bytes=cache_bytes,
        mode=mode,
        optimizer=optimizer,
    )
    tokens_moved = tokens * columns * item_bytes
    return [replace(each, stream_bytes=each.stream_bytes + tokens_moved) for each in rows]
