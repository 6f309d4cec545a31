"""The shapes of decoders: presets of public models' sizes, and which of their blocks get another layer.

The paper (arXiv 2412.09764) states of its sizes the width of 373m, 1.3b and 8b and the depth of 373m. What it leaves
open is said here, by whose shape was taken:

* 134m: the width and depth of GPT-2 small with Llama's FFN (8/3 d in multiples of 256), which makes 134.1M with
  Llama 2's vocabulary.
* 373m: d 1024, 24 blocks, 16 heads as in the released configuration; Llama's FFN makes it 373.9M.
* 720m: of our own, d 1536 with as many blocks as make 721M.
* 1.3b: d 2048; depth, FFN and heads of Sheared LLaMA 1.3B (arXiv 2310.06694).
* 8b: Llama 3 8B (arXiv 2407.21783), as in the paper.

``tiny`` and ``91m`` are for CPUs: the first for tests, the second to decode on one.
"""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from membench.layers.spec.attention import AttentionSpec
from membench.layers.spec.block import BlockSpec, OwnLayerSpec
from membench.layers.spec.model import ModelSpec, Pool


class Spaced(BaseModel):
    """Blocks around the middle: 3 by 8 of 24 are 4, 12 and 20."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    count: PositiveInt = Field(le=2**12, description="how many blocks")
    stride: PositiveInt = Field(le=2**12, description="from one of them to the next")

    def of(self, num_blocks: int) -> tuple[int, ...]:
        """Their numbers; some are beyond the blocks there are if they do not fit."""
        first = num_blocks // 2 - (self.count - 1) * self.stride // 2
        return tuple(first + number * self.stride for number in range(self.count))


At = Literal["all", "middle"] | Spaced | tuple[int, ...]


class ModelShape(BaseModel):
    """A decoder but for the layer that is compared in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    vocab_size: PositiveInt = Field(le=2**24, description="V, tokens that there are")
    model_dim: PositiveInt = Field(le=2**20, description="d, width of a token")
    num_blocks: PositiveInt = Field(le=2**12, description="L, how many")
    heads: PositiveInt = Field(le=2**12, description="h, query heads")
    kv_heads: PositiveInt | None = Field(
        default=None, le=2**12, description="g, heads of keys and values, a divisor of heads; as many if left out"
    )
    head_dim: PositiveInt | None = Field(
        default=None, le=2**16, description="c, width of a head; model_dim / heads if left out"
    )
    ffn_hidden: PositiveInt = Field(le=2**24, description="f, hidden width of the FFNs that stay")
    rope_theta: PositiveFloat = Field(default=10_000.0, description="base of the rotary positions' wavelengths")
    norm_eps: PositiveFloat = Field(default=1e-5, description="what an RMSNorm adds to the mean square")
    tied: bool = Field(default=False, description="the head is the embedding, transposed")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_dim is None and self.model_dim % self.heads:
            raise ValueError(
                f"model_dim {self.model_dim} is no multiple of heads {self.heads}: give head_dim, an even one"
            )
        try:
            _ = self.attention
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def attention(self) -> AttentionSpec:
        return AttentionSpec(
            heads=self.heads,
            kv_heads=self.heads if self.kv_heads is None else self.kv_heads,
            head_dim=self.model_dim // self.heads if self.head_dim is None else self.head_dim,
            rope_theta=self.rope_theta,
        )

    def positions(self, at: At) -> tuple[int, ...]:
        """The blocks that ``at`` names.

        Raises:
            ValueError: there is no such block.
        """
        if at == "all":
            return tuple(range(self.num_blocks))
        if at == "middle":
            return (self.num_blocks // 2,)
        found = at.of(self.num_blocks) if isinstance(at, Spaced) else at
        if not found or list(found) != sorted(set(found)) or not 0 <= found[0] <= found[-1] < self.num_blocks:
            named = _listed(found)
            raise ValueError(f"blocks {named}: name some from 0 to {self.num_blocks - 1}, each once and in order")
        return found

    def around(self, layer: OwnLayerSpec, at: At, pool: Pool, *, checked: bool = True) -> ModelSpec:
        """The model with this layer in the blocks ``at``.

        Args:
            checked: False: a sketch, of a layer whose sizes are still being looked for.

        Raises:
            ValueError: there are no such blocks, or the layer does not fit.
        """
        make = ModelSpec if checked else ModelSpec.model_construct
        return make(
            vocab_size=self.vocab_size,
            model_dim=self.model_dim,
            num_blocks=self.num_blocks,
            attention=self.attention,
            ffn_hidden=self.ffn_hidden,
            layer=layer,
            at=self.positions(at),
            pool=pool,
            tied=self.tied,
            norm_eps=self.norm_eps,
            dtype=layer.dtype,
        )

    def block_around(self, layer: OwnLayerSpec, *, checked: bool = True) -> BlockSpec:
        """One block with this layer; ``checked`` as for ``around``.

        Raises:
            ValueError: the layer does not fit.
        """
        make = BlockSpec if checked else BlockSpec.model_construct
        return make(
            model_dim=self.model_dim, attention=self.attention, ffn=layer, norm_eps=self.norm_eps, dtype=layer.dtype
        )


PRESETS: dict[str, ModelShape] = {
    "tiny": ModelShape(vocab_size=256, model_dim=64, num_blocks=2, heads=4, kv_heads=2, ffn_hidden=192, tied=True),
    "91m": ModelShape(vocab_size=8192, model_dim=768, num_blocks=12, heads=12, ffn_hidden=2048, tied=True),
    "134m": ModelShape(vocab_size=32_000, model_dim=768, num_blocks=12, heads=12, ffn_hidden=2048),
    "373m": ModelShape(vocab_size=32_000, model_dim=1024, num_blocks=24, heads=16, ffn_hidden=2816),
    "720m": ModelShape(vocab_size=32_000, model_dim=1536, num_blocks=22, heads=12, ffn_hidden=4096),
    "1.3b": ModelShape(vocab_size=32_000, model_dim=2048, num_blocks=24, heads=16, ffn_hidden=5504),
    "8b": ModelShape(
        vocab_size=128_256,
        model_dim=4096,
        num_blocks=32,
        heads=32,
        kv_heads=8,
        ffn_hidden=14_336,
        rope_theta=500_000.0,
    ),
}


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
