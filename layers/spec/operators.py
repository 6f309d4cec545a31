"""The operators that scenarios of level ``op`` compare, and what each costs. No torch.

Letters: B tokens, N = n² rows, n sub-keys a half, D columns, H heads, k rows a head reads, L = B·H·k
lookups, U distinct rows among them, dk key dim, E experts, K experts a token uses.
"""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.base import Choice, TokenSpec
from membench.layers.spec.cost import StageCost, Step
from membench.layers.spec.dense import swiglu_activation_bytes, swiglu_params
from membench.layers.spec.expectation import expected_unique
from membench.layers.spec.moe import combine
from membench.layers.spec.operator import OperatorSpec
from membench.layers.spec.peer import TABLES as EXPERT_TABLES
from membench.layers.spec.peer import expert_row_stages
from membench.layers.spec.quantities import INDEX_BYTES, SCORE_BYTES, index_bytes
from membench.layers.spec.retrieval import NumKeys, score_stages, top_k_stages


class RowOperatorSpec(OperatorSpec, TokenSpec):
    """An operator over H·k imposed rows a token, of tables of N rows as wide as a token."""

    num_keys: NumKeys = Field(description="N, rows of a table")
    heads: PositiveInt = Field(le=2**12, description="H, heads")
    top_k: PositiveInt = Field(description="k, rows a head reads")

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if self.top_k > self.num_keys:
            raise ValueError(f"top_k {self.top_k} is above num_keys {self.num_keys}")
        return self

    @property
    def choice_of_token(self) -> Choice:
        return Choice("rows", (self.heads, self.top_k), self.num_keys)

    @property
    def table_params(self) -> int:
        return self.TABLES * self.num_keys * self.model_dim

    @property
    def table_columns(self) -> int:
        return self.model_dim

    @property
    def read_params(self) -> int:
        return self.lookups(1) * self.TABLES * self.model_dim

    def lookups(self, tokens: int) -> int:
        return tokens * self.heads * self.top_k

    def expected_touched(self, tokens: int, zipf_exponent: float) -> float:
        return expected_unique(self.num_keys, tokens * self.heads, self.top_k, zipf_exponent)


class WeightedBagSpec(RowOperatorSpec):
    """Each token's H·k value rows, summed with their weights."""

    TABLES: ClassVar = 1

    kind: Literal["weighted_bag"] = "weighted_bag"
    heads: PositiveInt = Field(default=4, le=2**12, description="H, heads")
    top_k: PositiveInt = Field(default=32, description="k, rows a head reads")

    def input_bytes(self, tokens: int) -> float:
        return float(self.lookups(tokens) * (index_bytes(self.num_keys) + SCORE_BYTES))

    def stages(self, step: Step, touched: float) -> list[StageCost]:
        return accounting.row_reads(
            "bag",
            step,
            lookups=self.lookups(step.tokens),
            unique_rows=touched,
            row_elements=self.model_dim,
            tables=self.TABLES,
            bag_elements=step.tokens * self.model_dim,
            item_bytes=self.item_bytes,
            index_bytes=index_bytes(self.num_keys),
        )

    def activation_bytes(self, tokens: int) -> float:
        return 2 * self.input_bytes(tokens) + tokens * self.model_dim * self.item_bytes


class ExpertRowsSpec(RowOperatorSpec):
    """PEER's experts of one neuron: the sum over a token's rows of weight · gelu(u·x) · v."""

    TABLES: ClassVar = EXPERT_TABLES

    kind: Literal["expert_rows"] = "expert_rows"
    heads: PositiveInt = Field(default=8, le=2**12, description="H, heads")
    top_k: PositiveInt = Field(default=16, description="k, experts a head uses")

    def input_bytes(self, tokens: int) -> float:
        return TokenSpec.input_bytes(self, tokens) + self.lookups(tokens) * (index_bytes(self.num_keys) + SCORE_BYTES)

    def stages(self, step: Step, touched: float) -> list[StageCost]:
        return expert_row_stages(
            step,
            self.lookups(step.tokens),
            touched,
            self.model_dim,
            self.item_bytes,
            index_bytes=index_bytes(self.num_keys),
        )

    def activation_bytes(self, tokens: int) -> float:
        lookups = self.lookups(tokens)
        gathered = self.TABLES * lookups * self.model_dim * self.item_bytes if self.path == "plain" else 0
        between = lookups * (index_bytes(self.num_keys) + 4 * SCORE_BYTES)
        return gathered + between + 4 * tokens * self.model_dim * self.item_bytes


class ProductKeyOperatorSpec(OperatorSpec):
    """An operator on both halves' fp32 scores of n sub-keys, N = n²."""

    ROUTED: ClassVar = False

    num_keys: NumKeys = Field(description="N = n², pairs of sub-keys")
    heads: PositiveInt = Field(default=4, le=2**12, description="H, heads")

    @property
    def sub_keys(self) -> int:
        """n, the square root of N."""
        return math.isqrt(self.num_keys)

    def score_bytes(self, tokens: int) -> float:
        """Both halves' scores, fp32."""
        return 2.0 * tokens * self.heads * self.sub_keys * SCORE_BYTES


class KeyScoresSpec(ProductKeyOperatorSpec):
    """Both halves of each query times their n sub-keys, in fp32 whatever the keys' dtype; queries are fp32."""

    PATHS: ClassVar = ()

    kind: Literal["key_scores"] = "key_scores"
    key_dim: PositiveInt = Field(le=2**20, description="dk of one head, both halves")

    @model_validator(mode="after")
    def _check_halves(self) -> Self:
        if self.key_dim % 2:
            raise ValueError(f"key_dim {self.key_dim} is odd: it is cut into two halves")
        return self

    @property
    def dense_params(self) -> int:
        return self.heads * self.sub_keys * self.key_dim

    def input_bytes(self, tokens: int) -> float:
        return float(tokens * self.heads * self.key_dim * SCORE_BYTES)

    def stages(self, step: Step, touched: float) -> list[StageCost]:
        del touched
        widths = {"query_item_bytes": SCORE_BYTES, "key_item_bytes": self.item_bytes}
        return score_stages(step.tokens, self.heads, self.sub_keys, self.key_dim, step.mode, **widths)

    def activation_bytes(self, tokens: int) -> float:
        return self.input_bytes(tokens) + self.score_bytes(tokens)


class ProductKeyTopKSpec(ProductKeyOperatorSpec):
    """The best k of the n² sums of both halves' fp32 scores, with the softmax of those k."""

    kind: Literal["product_key_top_k"] = "product_key_top_k"
    dtype: Literal["float32"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="float32", description="of scores"
    )
    top_k: PositiveInt = Field(default=32, description="k, the best of a head")

    @model_validator(mode="after")
    def _check_top_k(self) -> Self:
        if self.top_k > self.sub_keys:
            raise ValueError(f"top_k {self.top_k} is above sub_keys {self.sub_keys} (num_keys = {self.sub_keys}²)")
        return self

    def input_bytes(self, tokens: int) -> float:
        return self.score_bytes(tokens)

    def lookups(self, tokens: int) -> int:
        return tokens * self.heads * self.top_k

    def stages(self, step: Step, touched: float) -> list[StageCost]:
        del touched
        return top_k_stages(step.tokens, self.heads, self.sub_keys, self.top_k, step.mode)

    def activation_bytes(self, tokens: int) -> float:
        lookups = self.lookups(tokens)
        pairs = lookups * self.top_k * 2 * SCORE_BYTES if self.path == "plain" else 0  # all k² sums of a head
        return self.score_bytes(tokens) + lookups * (2 * INDEX_BYTES + 2 * SCORE_BYTES) + pairs


class GroupedExpertsSpec(OperatorSpec, TokenSpec):
    """SwiGLU experts on imposed assignments, each token's K results summed with their weights."""

    PATHS: ClassVar = ()

    kind: Literal["grouped_experts"] = "grouped_experts"
    num_experts: PositiveInt = Field(le=2**20, description="E, experts")
    expert_hidden: PositiveInt = Field(le=2**24, description="f_e, hidden width of one expert")
    top_k: PositiveInt = Field(default=8, description="K, experts a token uses")

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is above num_experts {self.num_experts}")
        return self

    @property
    def expert_params(self) -> int:
        """Parameters of one expert."""
        return swiglu_params(self.model_dim, self.expert_hidden)

    @property
    def dense_params(self) -> int:
        return self.num_experts * self.expert_params

    @property
    def read_params(self) -> int:
        return self.top_k * self.expert_params

    @property
    def choice_of_token(self) -> Choice:
        return Choice("experts", (self.top_k,), self.num_experts)

    def checked_params(self, sampled: int, new_tokens: int = 1) -> int:
        return min(self.num_experts, sampled * self.top_k) * self.expert_params

    def input_bytes(self, tokens: int) -> float:
        return TokenSpec.input_bytes(self, tokens) + tokens * self.top_k * (2 * INDEX_BYTES + SCORE_BYTES)

    def expected_touched(self, tokens: int, zipf_exponent: float) -> float:
        return expected_unique(self.num_experts, tokens, self.top_k, zipf_exponent)

    def stages(self, step: Step, touched: float) -> list[StageCost]:
        d, s, slots, mode = self.model_dim, self.item_bytes, step.tokens * self.top_k, step.mode
        products = accounting.swiglu("experts_", slots, d, self.expert_hidden, s, mode, matrices=touched)
        return [*products, *combine(slots, step.tokens, d, s, mode)]

    def activation_bytes(self, tokens: int) -> float:
        hidden, s = self.expert_hidden, self.item_bytes
        return swiglu_activation_bytes(tokens * self.top_k, self.model_dim, hidden, s, "forward")
