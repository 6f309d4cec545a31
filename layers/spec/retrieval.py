"""Product-key retrieval, as memory and peer share it (arXiv 1907.05242, section 3.1).

A query of dk numbers is cut in halves; each half is compared with n sub-keys of its head,
and the best k of the n² sums are among the k x k pairs of both halves' best k. Only pairs
with (i+1)(j+1) <= k can be among them, which is what ``num_candidates`` counts.
"""

import math
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.base import Choice, TokenSpec
from membench.layers.spec.cost import Mode, StageCost, has_backward
from membench.layers.spec.expectation import expected_unique
from membench.layers.spec.layout import Layout, cut_in_a_host
from membench.layers.spec.quantities import INDEX_BYTES, SCORE_BYTES, index_bytes, parse_num_keys

NumKeys = Annotated[int, BeforeValidator(parse_num_keys)]

# From so many sub-keys for each chosen one, the backward of the scores is done for the chosen alone: measured
# on CPUs, where it is faster already at 8 and several times so beyond (benchmarks/memory_step.py).
_SPARSE_FROM = 8


class RetrievalSpec(TokenSpec):
    """Per-head product keys over N = n² rows."""

    num_keys: NumKeys = Field(description="N = n², rows of the table")
    heads: PositiveInt
    top_k: PositiveInt
    key_dim: PositiveInt = Field(le=2**20, description="dk of one head, both halves")
    query_norm: bool = Field(default=False, description="LayerNorm on each head's query")
    qk_norm: bool = Field(default=False, description="RMSNorm on query and key halves")

    @model_validator(mode="after")
    def _check_retrieval(self) -> Self:
        if self.key_dim % 2:
            raise ValueError(f"key_dim {self.key_dim} is odd: it is cut into two halves")
        if self.top_k > self.sub_keys:
            raise ValueError(
                f"top_k {self.top_k} is above sub_keys {self.sub_keys} (num_keys {self.num_keys} = {self.sub_keys}²): "
                "each half offers at most sub_keys candidates"
            )
        return self

    @property
    def sub_keys(self) -> int:
        """n, keys per half: the square root of N."""
        return math.isqrt(self.num_keys)

    @property
    def lookups_per_token(self) -> int:
        """H·k, rows a token reads."""
        return self.heads * self.top_k

    @property
    def retrieval_params(self) -> int:
        """d·H·dk of the query projection, H·n·dk of the keys, 2·dk of a norm."""
        norm = 2 * self.key_dim * (int(self.query_norm) + int(self.qk_norm))
        return self.model_dim * self.heads * self.key_dim + self.heads * self.sub_keys * self.key_dim + norm

    @property
    def row_params(self) -> int:
        return self.table_params // self.num_keys

    def shard_index_bytes(self, row_shards: int) -> int:
        """Of the number of a row in one of R row shards."""
        return index_bytes(-(-self.num_keys // row_shards))

    def layouts(self, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
        columns, rows = Layout("columns"), Layout("rows", row_shards=ranks)
        if not 1 < host_ranks < ranks:
            return (columns, rows)
        return (
            columns,
            rows,
            Layout("columns in a host, rows between", row_shards=ranks // host_ranks),
            Layout("rows in a host, columns between", row_shards=host_ranks, rows_inside=True),
            *cut_in_a_host(columns, ranks, host_ranks),
        )

    @property
    def takes_best_path(self) -> bool:
        return True

    @property
    def choice_of_token(self) -> Choice:
        return Choice("rows", (self.heads, self.top_k), self.num_keys)

    def expected_rows(self, tokens: int, zipf_exponent: float) -> float:
        """Expected distinct rows read by so many tokens."""
        return expected_unique(self.num_keys, tokens * self.heads, self.top_k, zipf_exponent)

    def retrieval_stages(self, tokens: int, mode: Mode) -> list[StageCost]:
        """Query projection, key scores (2·B·H·n·dk FLOPs), top-k."""
        s = self.item_bytes
        return [
            *accounting.linear("query", tokens, self.model_dim, self.heads * self.key_dim, s, mode),
            *score_stages(
                tokens,
                self.heads,
                self.sub_keys,
                self.key_dim,
                mode,
                query_item_bytes=s,
                key_item_bytes=s,
                sparse_top_k=self.top_k if self.sparse_scores_backward else None,
            ),
            *top_k_stages(
                tokens,
                self.heads,
                self.sub_keys,
                self.top_k,
                mode,
                sparse_backward=self.sparse_scores_backward,
                index_bytes=index_bytes(self.num_keys),
            ),
        ]

    @property
    def sparse_scores_backward(self) -> bool:
        """Whether a backward computes the gradients of the chosen scores alone, and not of all n a half."""
        return self.sub_keys >= _SPARSE_FROM * self.top_k

    def retrieval_activation_bytes(self, tokens: int, mode: Mode) -> float:
        """Queries and both halves' fp32 scores; a backward holds their gradients too."""
        queries = tokens * self.heads * self.key_dim * (self.item_bytes + 4)
        scores = 2 * tokens * self.heads * self.sub_keys * SCORE_BYTES
        return (queries + scores) * (2 if has_backward(mode) else 1)


def score_stages(
    tokens: float,
    heads: int,
    sub_keys: int,
    key_dim: int,
    mode: Mode,
    *,
    query_item_bytes: int,
    key_item_bytes: int,
    sparse_top_k: int | None = None,
) -> list[StageCost]:
    """Queries times keys, 2·B·H·n·dk FLOPs; twice that backward, both gradients as dense products.

    With ``sparse_top_k`` the backward is one of the chosen scores only, 4·B·H·k·dk: it reads queries, keys and
    lookups and writes the gradients of all queries and keys.
    """
    per_half = tokens * heads * sub_keys
    flops = 2.0 * per_half * key_dim
    operands = tokens * heads * key_dim * query_item_bytes + heads * sub_keys * key_dim * key_item_bytes
    scores = 2 * per_half * SCORE_BYTES
    backward = StageCost("scores", 2 * flops, 2 * flops, 2 * operands + scores, backward=True)
    if sparse_top_k is not None:
        lookups = 2 * tokens * heads * sparse_top_k
        chosen = 2.0 * lookups * key_dim
        moved = 2 * operands + lookups * (INDEX_BYTES + SCORE_BYTES)
        backward = StageCost("scores", chosen, chosen, moved, backward=True)
    return accounting.passes(mode, StageCost("scores", flops, flops, operands + scores), backward)


def top_k_stages(
    tokens: float,
    heads: int,
    sub_keys: int,
    top_k: int,
    mode: Mode,
    *,
    sparse_backward: bool = False,
    index_bytes: int = INDEX_BYTES,
) -> list[StageCost]:
    """Both halves' scores read, an index and a weight a lookup written.

    Backward, the scores' gradient is written: all of it, or one number a lookup.
    """
    scores = 2 * tokens * heads * sub_keys * SCORE_BYTES
    lookups = tokens * heads * top_k
    written = lookups * SCORE_BYTES if sparse_backward else scores
    return accounting.passes(
        mode,
        StageCost("top_k", stream_bytes=scores + lookups * (index_bytes + SCORE_BYTES)),
        StageCost("top_k", stream_bytes=written + lookups * (index_bytes + 2 * SCORE_BYTES), backward=True),
    )


def candidate_pairs(top_k: int) -> list[tuple[int, int]]:
    """The pairs (i, j) of sorted halves that can be among the best k: (i+1)(j+1) <= k.

    A pair (i, j) is beaten by every (i', j') with i' <= i and j' <= j, of which there are
    (i+1)(j+1) - 1. 119 of 1024 pairs at k = 32.
    """
    return [(i, j) for i in range(top_k) for j in range(top_k // (i + 1))]
