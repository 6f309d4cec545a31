"""PEER: product-key retrieval of experts with one hidden neuron (arXiv 2407.04153).

Expert i computes act(u_i · x) v_i; a head's k experts are weighted by the softmax of their
retrieval scores. All k experts of every head are used.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from membench.layers.spec import accounting
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
    def layer_params(self) -> int:
        """Everything but the two tables."""
        return self.retrieval_params + swiglu_params(self.model_dim, self.companion_hidden)

    def split_error(self, ranks: int) -> str | None:
        if self.model_dim % ranks:
            return f"expert rows of {self.model_dim} columns cannot be cut into {ranks} equal column shards"
        return None

    def cost(self, step: Step) -> Cost:
        """Column-sharded over ranks: u·x is a partial sum of d/P columns, reduced before the activation."""
        if error := self.split_error(step.ranks):
            raise ValueError(error)
        d, s, mode = self.model_dim, self.item_bytes, step.mode
        tokens, columns, group = step.tokens, d // step.ranks, step.group_tokens
        lookups = group * self.lookups_per_token
        rows = self.expected_rows(group, step.zipf_exponent) if step.unique_rows is None else step.unique_rows
        stages = self.retrieval_stages(tokens, mode)
        backward = step.has_backward
        stages += expert_row_stages(step, lookups, rows, columns, s)
        if self.companion_hidden:
            stages += accounting.swiglu("companion_", tokens, d, self.companion_hidden, s, mode)
        table_share = TABLES * self.num_keys * columns
        touched = TABLES * rows
        stages += accounting.update(self.layer_params, table_share, s, step.update)
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
                gradients=(self.layer_params + accounting.table_gradients(step, touched * columns, table_share)) * s
                if backward
                else 0,
                optimizer=accounting.optimizer_state_bytes(
                    self.layer_params, table_share, state_rows, s, step.optimizer
                ),
                activations=self.retrieval_activation_bytes(tokens, mode)
                + lookups * (INDEX_BYTES + 4 * SCORE_BYTES) * (2 if backward else 1)
                + group * columns * s * 4
                + swiglu_activation_bytes(tokens, d, self.companion_hidden, s, mode),
            ),
            communication_bytes=self._communication(step),
            lookups=lookups,
            unique_rows=rows,
            is_expectation=step.unique_rows is None,
        )

    def _communication(self, step: Step) -> dict[str, float]:
        """Indices gathered, x and y exchanged by columns, the fp32 partial products all-reduced."""
        tokens, ranks = step.tokens, step.ranks
        if ranks == 1:
            return {}
        lookups, s = tokens * self.lookups_per_token, self.item_bytes
        passes = 2 if step.has_backward else 1
        columns = 2 * accounting.ring_bytes(tokens * self.model_dim * s, ranks)
        return {
            "all_gather_lookups": (ranks - 1) * lookups * (INDEX_BYTES + SCORE_BYTES),
            "all_to_all_columns": columns * passes,
            "all_reduce_products": 2 * (ranks - 1) * lookups * SCORE_BYTES * passes,
            **accounting.replica_gradients(self.layer_params, s, step),
        }


def expert_row_stages(step: Step, lookups: float, unique_rows: float, columns: int, item_bytes: int) -> list[StageCost]:
    """u·x and the weighted v over both tables, 4·L·d FLOPs; x is read too, and backward dx written.

    Of the tokens of all ranks; ``columns`` are this rank's.
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
    )
    tokens_moved = tokens * columns * item_bytes
    return [replace(each, stream_bytes=each.stream_bytes + tokens_moved) for each in rows]
