"""A block of a Llama-style decoder: x + attention(norm(x)), then + ffn(norm(.)), where any kind of layer is the FFN.

Letters: B tokens, d model dim.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.attention import AttentionSpec
from membench.layers.spec.base import Choice, TokenSpec
from membench.layers.spec.cost import Cost, Mode, Optimizer, Step
from membench.layers.spec.dense import DenseSpec
from membench.layers.spec.expectation import RoutingKind
from membench.layers.spec.joined import joined
from membench.layers.spec.layout import Layout
from membench.layers.spec.memory import MemoryPlusSpec, MemorySpec
from membench.layers.spec.moe import MoESpec
from membench.layers.spec.peer import PeerSpec

OwnLayerSpec = DenseSpec | MoESpec | MemorySpec | MemoryPlusSpec | PeerSpec
FfnSpec = Annotated[OwnLayerSpec, Discriminator("kind")]
FORWARD_IS = "take mode prefill or decode: with a cache and without are two things"


class BlockSpec(TokenSpec):
    """One block: two RMSNorms, attention, and the layer that stands where a dense FFN would."""

    kind: Literal["block"] = "block"
    attention: AttentionSpec = Field(description="its heads and their width")
    ffn: FfnSpec = Field(description="the layer in the place of the FFN")
    norm_eps: PositiveFloat = Field(default=1e-5, description="what an RMSNorm adds to the mean square")

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        check_same(self, self.ffn)
        return self

    @property
    def norm_params(self) -> int:
        """Two scales of d."""
        return 2 * self.model_dim

    @property
    def table_params(self) -> int:
        return self.ffn.table_params

    @property
    def labels(self) -> tuple[str, ...]:
        return self.ffn.labels

    def arm_labels(self, given: Collection[str]) -> tuple[str, ...]:
        return self.ffn.arm_labels(given)

    def most_inputs(self, streaming: int | None) -> int:
        """Those that stream are enough: what one touches is known when it has gone through attention."""
        return streaming or super().most_inputs(streaming)

    @property
    def is_one_of_many(self) -> bool:
        return True

    @property
    def routed(self) -> bool:
        return self.ffn.routed

    @property
    def is_yardstick(self) -> bool:
        return self.ffn.is_yardstick

    @property
    def has_companion(self) -> bool:
        return self.ffn.has_companion

    @property
    def takes_best_path(self) -> bool:
        return self.ffn.takes_best_path

    @property
    def choice_of_token(self) -> Choice | None:
        return self.ffn.choice_of_token

    def routing_error(self, routing: RoutingKind) -> str | None:
        return self.ffn.routing_error(routing)

    def split_error(self, ranks: int) -> str | None:
        return self.ffn.split_error(ranks)

    def layouts(self, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
        """As its FFN, but attention is not cut by widths."""
        return tuple(way for way in self.ffn.layouts(ranks, host_ranks) if not way.tensor)

    def shard_error(self, row_shards: int, column_shards: int) -> str | None:
        return self.ffn.shard_error(row_shards, column_shards)

    @property
    def row_tables(self) -> int:
        return self.ffn.row_tables

    @property
    def step_load_bytes(self) -> int:
        return self.ffn.step_load_bytes

    @property
    def row_params(self) -> int:
        return self.ffn.row_params

    def mode_error(self, mode: Mode, optimizer: Optimizer | None) -> str | None:
        return FORWARD_IS if mode == "forward" else self.ffn.mode_error(mode, optimizer)

    def checked_params(self, sampled: int, new_tokens: int = 1) -> int:
        return self.attention.params(self.model_dim) + self.norm_params + self.ffn.checked_params(sampled)

    @property
    def attends(self) -> bool:
        return True

    def checked_activations(self, sequences: int, new_tokens: int) -> int:
        """Of the sampled tokens, and of those before them in their sequences."""
        tokens = min(sequences, self.SAMPLED) * new_tokens
        return self.attention.checked_activations(tokens, min(tokens, self.SAMPLED), new_tokens, self.model_dim)

    def cost(self, step: Step) -> Cost:
        """Attention of this rank's own sequences, whole on every rank; the FFN as its kind is split."""
        return joined([(self.attention_cost(step), 1), (self.ffn.cost(step), 1)], step)

    def attention_cost(self, step: Step) -> Cost:
        """Of all but the FFN: attention, and the scales of both norms."""
        d, s = self.model_dim, self.item_bytes
        cost = accounting.replicated_cost(
            step,
            self.attention.params(d) + self.norm_params,
            s,
            self.attention.stages(step, d, s),
            self.attention.activation_bytes(step, d, s),
        )
        return with_cache(cost, self.attention.cached_bytes(step, s))


def check_same(whole: TokenSpec, part: TokenSpec) -> None:
    """Refuses a part of another width or dtype than the whole."""
    for name in ("model_dim", "dtype"):
        if getattr(whole, name) != getattr(part, name):
            raise ValueError(f"{name} is {getattr(whole, name)}, that of its {part.kind} {getattr(part, name)}")  # type: ignore[attr-defined]


def with_cache(cost: Cost, cached_bytes: float) -> Cost:
    """The cost with a KV cache of so many bytes held."""
    return replace(cost, memory=replace(cost.memory, kv_cache=cached_bytes))
