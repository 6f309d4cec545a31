"""Memory layers: product-key lookup into a table of value rows (arXiv 1907.05242, 2412.09764).

``memory`` is the plain layer; ``memory_plus`` adds a SiLU gate with its two projections and
normalised queries and keys, and usually shares its pool between several layers.
"""

from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from membench.layers.spec import accounting, sharding
from membench.layers.spec.base import WIDTH_MULTIPLE, FreeDimension
from membench.layers.spec.cost import Cost, MemoryNeed, Mode, Optimizer, Step, has_backward
from membench.layers.spec.dense import swiglu_activation_bytes, swiglu_params
from membench.layers.spec.quantities import SCALE_BYTES, SCORE_BYTES, RowFormat
from membench.layers.spec.retrieval import RetrievalSpec

_KEYS = (FreeDimension(name="num_keys", square=True, minimum=4),)
_COMPANION = (FreeDimension(name="companion_hidden", step=WIDTH_MULTIPLE, minimum=0),)


class MemorySpec(RetrievalSpec):
    """Top-k of N keys in each of H heads, the chosen value rows summed with softmax weights."""

    SHARES_A_POOL: ClassVar = True
    FREE: ClassVar = {
        "params": _KEYS,
        "stored_bytes": _KEYS,
        "flops_per_token": _COMPANION,
        "moved_bytes": _COMPANION,
    }

    kind: Literal["memory"] = "memory"
    heads: PositiveInt = Field(default=4, le=2**12, description="H, heads")
    top_k: PositiveInt = Field(default=32, description="k, rows a head reads")
    value_dim: PositiveInt | None = Field(default=None, le=2**20, description="D, width of a value row; d if left out")
    companion_hidden: NonNegativeInt = Field(default=0, description="hidden width of a dense FFN added beside")
    row_format: RowFormat = Field(
        default="same", description="of stored value rows: the layer's dtype, or eight bits a number with a scale a row"
    )

    table_on: Literal["device", "host"] = Field(
        default="device", description="host: value rows in the host's memory, for more than the device holds"
    )

    @model_validator(mode="after")
    def _check_table(self) -> Self:
        if self.quantized and self.table_on == "host":
            raise ValueError(f"row_format {self.row_format} is for tables on the device: leave out table_on host")
        return self

    @property
    def quantized(self) -> bool:
        """Whether rows have eight bits a number and a scale."""
        return self.row_format != "same"

    @property
    def row_dtype(self) -> str:
        """Of the numbers of a stored row."""
        return self.row_format if self.quantized else self.dtype

    @property
    def labels(self) -> tuple[str, ...]:
        rows = (f"{self.row_format} rows",) if self.quantized else ()
        return (*rows, "table in host memory") if self.table_on == "host" else rows

    def mode_error(self, mode: Mode, optimizer: Optimizer | None) -> str | None:
        if has_backward(mode) and self.quantized:
            return f"rows in {self.row_format} are read, not trained: take a mode without gradients"
        return super().mode_error(mode, optimizer)

    def stored_row_bytes(self, columns: int) -> int:
        """Bytes of so many columns of a value row as it lies in memory, with its scale where it has one."""
        return columns + SCALE_BYTES if self.quantized else columns * self.item_bytes

    @property
    def row_elements(self) -> int:
        """D, the width of a value row."""
        return self.value_dim if self.value_dim is not None else self.model_dim

    @property
    def has_companion(self) -> bool:
        return self.companion_hidden > 0

    @property
    def gated(self) -> bool:
        return False

    @property
    def projected(self) -> bool:
        """Whether an output matrix brings D back to d."""
        return self.gated or self.row_elements != self.model_dim

    @property
    def table_params(self) -> int:
        return self.num_keys * self.row_elements

    @property
    def row_tables(self) -> int:
        return 1

    @property
    def layer_params(self) -> int:
        """Everything but the table: what every rank holds whole."""
        projections = int(self.projected) + int(self.gated)
        return (
            self.retrieval_params
            + projections * self.model_dim * self.row_elements
            + swiglu_params(self.model_dim, self.companion_hidden)
        )

    def split_error(self, ranks: int) -> str | None:
        return self.shard_error(1, ranks)

    def shard_error(self, row_shards: int, column_shards: int) -> str | None:
        return sharding.shard_error(self.num_keys, row_shards, self.row_elements, column_shards, "value")

    def best_row_shards(self, ranks: int) -> int:
        """R of the way of cutting the table by which a training step sends less: 1, by columns, or all, by rows.

        By columns a token sends (P-1)·H·k·(s_i + 2·s_p) + 2·D·s·(P-1)/P bytes of indices, scores and results, by
        rows H·k·(s_i + 2·s_p)·(P-1)/P + 2·(P-1)·D·s, s_i then being that of a shard's row. Where both s_i are the
        same, the former is less, whatever P, if H·k·(s_i + 2·s_p) < 2·D·s.
        """
        columns, rows = (self.shard_index_bytes(shards) + 2 * SCORE_BYTES for shards in (1, ranks))
        saved = 2 * self.row_elements * self.item_bytes * (ranks - 1)
        less = self.lookups_per_token * (ranks * columns - rows) < saved
        return 1 if less and not self.shard_error(1, ranks) else ranks

    def cost(self, step: Step) -> Cost:
        """Over ranks: projections and scores on b tokens, the bag on P·b tokens' lookups of this rank's table shard."""
        return self._cost(step, tables=1)

    def cost_beside_pool(self, step: Step) -> Cost:
        """Of one more layer that reads another's table: it holds none itself, and no update of one is its own."""
        return self._cost(replace(step, fused=False), tables=0)

    def _cost(self, step: Step, tables: int) -> Cost:
        if error := self.shard_error(step.row_shards, step.column_shards):
            raise ValueError(error)
        d, width, s = self.model_dim, self.row_elements, self.item_bytes
        tokens, group, mode = step.tokens, step.group_tokens, step.mode
        columns = width // step.column_shards
        lookups = step.of_row_shard(group * self.lookups_per_token)
        rows = self.expected_rows(group, step.zipf_exponent) / step.row_shards
        rows = rows if step.unique_rows is None else step.unique_rows
        stages = self.retrieval_stages(tokens, mode)
        stages += accounting.row_reads(
            "bag",
            step,
            lookups=lookups,
            unique_rows=rows,
            row_elements=columns,
            tables=1,
            bag_elements=group * columns,
            item_bytes=s,
            row_bytes=self.stored_row_bytes(columns),
            index_bytes=self.shard_index_bytes(step.row_shards),
        )
        if self.gated:
            stages += accounting.linear("gate", tokens, d, width, s, mode)
        if self.projected:
            stages += accounting.linear("output", tokens, width, d, s, mode)
        if self.companion_hidden:
            stages += accounting.swiglu("companion_", tokens, d, self.companion_hidden, s, mode)
        table_share = tables * step.of_row_shard(self.num_keys) * columns
        stages += accounting.update(self.layer_params, table_share, s, step.update)
        params = self.layer_params + tables * self.table_params
        return Cost(
            params=params,
            active_params=self.layer_params + self.lookups_per_token * width,
            rank_params=self.layer_params + table_share,
            stored_bytes=self.layer_params * s + tables * self.num_keys * self.stored_row_bytes(width),
            stages=tuple(stages),
            memory=self._memory(step, rows, tables),
            communication_bytes=self._communication(step, rows),
            lookups=lookups,
            unique_rows=rows,
            is_expectation=step.unique_rows is None,
        )

    def _memory(self, step: Step, rows: float, tables: int) -> MemoryNeed:
        """With a table on the host the device holds copies of the rows that were read, and their gradient."""
        s, columns, group = self.item_bytes, self.row_elements // step.column_shards, step.group_tokens
        held = tables * step.of_row_shard(self.num_keys)
        tokens, table_share, backward = step.tokens, held * columns, step.has_backward
        dense = self.layer_params * s
        table = float(held * self.stored_row_bytes(columns))
        state = accounting.optimizer_state_bytes(self.layer_params, 0, 0, s, step.optimizer)
        whole = accounting.optimizer_state_bytes(self.layer_params, table_share, held, s, step.optimizer)
        table_state = whole - state
        activations = (
            self.retrieval_activation_bytes(tokens, step.mode)
            + step.of_row_shard(group * self.lookups_per_token)
            * (self.shard_index_bytes(step.row_shards) + 2 * SCORE_BYTES)
            * (2 if backward else 1)
            + group * columns * s * 2
            + tokens * (self.model_dim + 3 * self.row_elements) * s
            + swiglu_activation_bytes(tokens, self.model_dim, self.companion_hidden, s, step.mode)
        )
        if self.table_on == "host":
            copies = rows * columns * s
            gradients = (table_share if step.optimizer == "adamw" else 0) * s + copies if backward else 0.0
            host = table + table_state + gradients
            return MemoryNeed(dense, dense + copies if backward else 0.0, state, activations + copies, host)
        of_table = accounting.table_gradients(step, rows * columns, table_share) * s
        gradients = dense + of_table if backward else 0.0
        return MemoryNeed(dense + table, gradients, state + table_state, activations)

    def _communication(self, step: Step, touched_rows: float) -> dict[str, float]:
        """Lookups and results of the shared table; gradients of what every rank holds whole."""
        if step.ranks == 1:
            return {}
        lookups = step.tokens * self.lookups_per_token
        return sharding.added(
            sharding.lookup_bytes(step, lookups, self.shard_index_bytes(step.row_shards), weights_by_columns=True),
            sharding.result_bytes(step, self.row_elements * self.item_bytes),
            sharding.row_square_bytes(step, touched_rows),
            accounting.replica_gradients(self.layer_params, self.item_bytes, step),
        )


class MemoryPlusSpec(MemorySpec):
    """Memory with the gate (y * silu(x W1)) W2 (arXiv 2412.09764, eq. 2) and qk-norm."""

    kind: Literal["memory_plus"] = "memory_plus"  # pyright: ignore[reportIncompatibleVariableOverride]
    qk_norm: bool = Field(default=True, description="RMSNorm on query and key halves")

    @property
    def gated(self) -> bool:
        return True

    @model_validator(mode="after")
    def _check_norms(self) -> Self:
        if self.qk_norm and self.query_norm:
            raise ValueError("query_norm and qk_norm both normalise the query: switch one off")
        return self
