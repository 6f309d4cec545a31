"""Causal self-attention with fewer key heads than query heads (GQA, arXiv 2305.13245) and rotary positions.

Letters: B tokens, S sequences, T new tokens of each (B = S·T), C tokens of context, d model dim, h query heads,
g key and value heads, c head dim, s bytes an element.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.cost import StageCost, Step

KEEPS_A_CACHE = ("prefill", "decode")


class AttentionSpec(BaseModel):
    """The shape of a block's attention."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    heads: PositiveInt = Field(le=2**12, description="h, query heads")
    kv_heads: PositiveInt = Field(le=2**12, description="g, heads of keys and values; each serves h/g query heads")
    head_dim: PositiveInt = Field(le=2**16, description="c, width of a head")
    rope_theta: PositiveFloat = Field(default=10_000.0, description="base of the rotary positions' wavelengths")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}: give a divisor of heads")
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd: rotary positions turn pairs of numbers, give an even one"
            )
        return self

    @property
    def query_width(self) -> int:
        """h·c."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """g·c, of keys or of values."""
        return self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """(h + 2g)·c: what one projection makes of a token."""
        return self.query_width + 2 * self.kv_width

    def params(self, model_dim: int) -> int:
        """The projections of queries, keys and values, and that of the output."""
        return model_dim * (self.qkv_width + self.query_width)

    def cached_bytes(self, step: Step, item_bytes: int) -> float:
        """Keys and values of all sequences, the new tokens' with them; 0 in modes that keep none."""
        if step.mode not in KEEPS_A_CACHE:
            return 0.0
        return 2.0 * step.sequences * (step.context + step.new_tokens) * self.kv_width * item_bytes

    def stages(self, step: Step, model_dim: int, item_bytes: int) -> list[StageCost]:
        """Both projections, and the attention between them.

        New keys and values are counted as they are projected, which writes them to where the cache has them, and once
        more as they are read. The t-th new token looks at C + t keys: 4·h·c FLOPs each, and backward twice that; the
        scores are formed again there, half as many as forward, which is executed and not needed.
        """
        mode, tokens = step.mode, step.tokens
        seen = step.sequences * step.new_tokens * (step.context + (step.new_tokens + 1) / 2)
        flops = 4.0 * self.query_width * seen
        keys_and_values = 2 * step.sequences * (step.context + step.new_tokens) * self.kv_width
        forward = 2 * tokens * self.query_width + keys_and_values
        # queries, outputs and their gradients; keys, values and theirs
        backward = 4 * tokens * self.query_width + 2 * keys_and_values
        return [
            *accounting.linear("qkv", tokens, model_dim, self.qkv_width, item_bytes, mode),
            *accounting.passes(
                mode,
                StageCost("attention", flops, flops, forward * item_bytes),
                StageCost("attention", 2 * flops, 2.5 * flops, backward * item_bytes, backward=True),
            ),
            *accounting.linear("out_proj", tokens, self.query_width, model_dim, item_bytes, mode),
        ]

    def checked_activations(self, tokens: int, queries: int, seen: int, model_dim: int) -> int:
        """Numbers of the float64 reference: of tokens projected, and of queries that look at ``seen`` keys at most.

        A token's input and normed input, projections, keys turned; a query's scores, their softmax and products.
        """
        of_tokens = tokens * (2 * model_dim + 2 * self.qkv_width)
        return of_tokens + queries * (3 * self.heads * seen + 2 * self.query_width + 3 * model_dim)

    def activation_bytes(self, step: Step, model_dim: int, item_bytes: int) -> float:
        """Queries, keys, values and outputs of the new tokens, beside the block's normed input and its sum."""
        once = step.tokens * (self.qkv_width + 2 * self.query_width + 3 * model_dim) * item_bytes
        return 2 * once if step.has_backward else once
