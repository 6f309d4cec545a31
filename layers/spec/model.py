"""A Llama-style decoder: token embedding, blocks, a last norm and a head, with any layer in the place of some FFNs.

Letters: B tokens, S sequences, d model dim, V vocabulary, L blocks.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from membench.layers.spec import accounting
from membench.layers.spec.attention import AttentionSpec
from membench.layers.spec.base import Part, Spec
from membench.layers.spec.block import FORWARD_IS, BlockSpec, FfnSpec
from membench.layers.spec.cost import Cost, Mode, Optimizer, StageCost, Step
from membench.layers.spec.dense import DenseSpec
from membench.layers.spec.expectation import RoutingKind, expected_unique
from membench.layers.spec.joined import joined
from membench.layers.spec.layout import Layout
from membench.layers.spec.memory import MemorySpec
from membench.layers.spec.quantities import DTypeName

Pool = Literal["shared", "own"]
_ID_BYTES = 8  # a token's number, int64


class ModelSpec(Spec):
    """A decoder of L blocks, whose FFNs in the blocks ``at`` are another layer.

    ``pool``: whether memory layers read one table, or each its own.
    """

    SAMPLED: ClassVar = 1

    kind: Literal["model"] = "model"
    vocab_size: PositiveInt = Field(le=2**24, description="V, tokens that there are")
    model_dim: PositiveInt = Field(le=2**20, description="d, width of a token")
    num_blocks: NonNegativeInt = Field(le=2**12, description="L; 0: only the embedding and the head")
    attention: AttentionSpec = Field(description="of every block: its heads and their width")
    ffn_hidden: PositiveInt = Field(le=2**24, description="f, hidden width of the FFNs that stay")
    layer: FfnSpec | None = Field(default=None, description="what stands in the place of the FFNs of the blocks at")
    at: tuple[NonNegativeInt, ...] = Field(default=(), description="blocks with the layer, counted from 0, ascending")
    pool: Pool = Field(default="own", description="shared: the memory layers read one table")
    tied: bool = Field(default=False, description="the head is the embedding, transposed")
    norm_eps: PositiveFloat = Field(default=1e-5, description="what an RMSNorm adds to the mean square")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.layer is None) != (not self.at):
            raise ValueError("layer and at belong together: which layer, and in which blocks")
        if list(self.at) != sorted(set(self.at)) or (self.at and self.at[-1] >= self.num_blocks):
            raise ValueError(
                f"at should be blocks from 0 to {self.num_blocks - 1}, each once and in order, not {self.at}"
            )
        if self.layer is not None:
            for name in ("model_dim", "dtype"):
                if getattr(self.layer, name) != getattr(self, name):
                    theirs = getattr(self.layer, name)
                    raise ValueError(f"{name} is {getattr(self, name)}, that of its {self.layer.kind} layer {theirs}")
        if self.pool == "shared" and not (self.layer and self.layer.SHARES_A_POOL):
            raise ValueError("pool shared is for memory and memory_plus: other layers have no table to share")
        return self

    @property
    def plain_block(self) -> BlockSpec:
        """A block whose FFN stays."""
        ffn = DenseSpec(model_dim=self.model_dim, ffn_hidden=self.ffn_hidden, dtype=self.dtype)
        return self._block(ffn)

    @property
    def replaced_block(self) -> BlockSpec | None:
        """A block with the layer in the place of its FFN; None where there is none."""
        return None if self.layer is None else self._block(self.layer)

    def block(self, number: int) -> BlockSpec:
        """The block of this number, from 0."""
        return (self.replaced_block if number in self.at else None) or self.plain_block

    @property
    def ends(self) -> Self:
        """The model without its blocks: embedding, last norm and head."""
        return self.model_copy(update={"num_blocks": 0, "layer": None, "at": (), "pool": "own"})

    def with_dtype(self, dtype: DTypeName) -> Self:
        """The same in another dtype, its layer too."""
        layer = None if self.layer is None else self.layer.model_copy(update={"dtype": dtype})
        return self.model_copy(update={"dtype": dtype, "layer": layer})

    def _block(self, ffn: FfnSpec) -> BlockSpec:
        """A block of this model; not checked again, what holds of the model holds of it."""
        return BlockSpec.model_construct(
            model_dim=self.model_dim, attention=self.attention, ffn=ffn, norm_eps=self.norm_eps, dtype=self.dtype
        )

    @property
    def stacked_blocks(self) -> int:
        return self.num_blocks

    @property
    def table_params(self) -> int:
        """Of the layers' tables; the embedding is none of them: it is trained as a matrix."""
        if self.layer is None:
            return 0
        return self.layer.table_params * (1 if self.pool == "shared" else len(self.at))

    def input_bytes(self, tokens: int) -> float:
        return float(tokens * _ID_BYTES)

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.layer is None else self.layer.labels

    def arm_labels(self, given: Collection[str]) -> tuple[str, ...]:
        """Those of the layer: one that is spread over several blocks is not all in one."""
        return self.labels if self.layer is None or len(self.at) > 1 else self.layer.arm_labels(given)

    @property
    def routed(self) -> bool:
        return self.layer is not None and self.layer.routed

    @property
    def balance_weight_used(self) -> float | None:
        return None if self.layer is None else self.layer.balance_weight_used

    def balanced_by(self, weight: float) -> Self:
        return self if self.layer is None else self.model_copy(update={"layer": self.layer.balanced_by(weight)})

    @property
    def is_yardstick(self) -> bool:
        """A model whose FFNs all stay dense."""
        return self.layer is None or self.layer.is_yardstick

    @property
    def has_companion(self) -> bool:
        return self.layer is not None and self.layer.has_companion

    @property
    def takes_best_path(self) -> bool:
        return self.layer is not None and self.layer.takes_best_path

    def routing_error(self, routing: RoutingKind) -> str | None:
        if routing != "routed" and self.routed:
            return f"routing {routing} is for one layer: in a model each layer routes what the one before gives it"
        return None

    @property
    def is_one_of_many(self) -> bool:
        """The ends are."""
        return not self.num_blocks

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its ends, its plain blocks, and those with the layer; equal blocks are one part."""
        if not self.num_blocks:
            return ()
        plain, replaced = self.plain_block, self.replaced_block
        if replaced is None or replaced == plain:
            blocks = [Part("plain block", "block", plain, self.num_blocks)]
        else:
            stay = self.num_blocks - len(self.at)
            blocks = [Part("plain block", "block", plain, stay)] if stay else []
            blocks.append(Part(None, "block", replaced, len(self.at)))
        return (Part("ends", "model", self.ends, 1), *blocks)

    def most_inputs(self, streaming: int | None) -> int:
        """Fewer than of a layer: what one touches takes a forward pass to tell, and all weights come between two."""
        return streaming or 32

    def parts_error(self, mode: Mode) -> str | None:
        if mode == "train_step" and self.pool == "shared" and len(self.at) > 1:
            return "a pool that several blocks read is updated once a step: its training is measured whole only"
        return None

    def split_error(self, ranks: int) -> str | None:
        return None if self.layer is None else self.layer.split_error(ranks)

    def layouts(self, ranks: int, host_ranks: int) -> tuple[Layout, ...]:
        return (self.replaced_block or self.plain_block).layouts(ranks, host_ranks)

    def shard_error(self, row_shards: int, column_shards: int) -> str | None:
        return None if self.layer is None else self.layer.shard_error(row_shards, column_shards)

    @property
    def row_tables(self) -> int:
        return 0 if self.layer is None else self.layer.row_tables

    @property
    def num_tables(self) -> int:
        return self.row_tables * (1 if self.pool == "shared" else len(self.at))

    @property
    def sharing_layers(self) -> int:
        return len(self.at)

    @property
    def step_load_bytes(self) -> int:
        return 0 if self.layer is None else self.layer.step_load_bytes

    @property
    def row_params(self) -> int:
        return 0 if self.layer is None else self.layer.row_params

    def mode_error(self, mode: Mode, optimizer: Optimizer | None) -> str | None:
        if mode == "forward":
            return FORWARD_IS
        return None if self.layer is None else self.layer.mode_error(mode, optimizer)

    def checked_params(self, sampled: int, new_tokens: int = 1) -> int:
        """Those of the largest part: parts are checked one after the other.

        Of the ends that is the head; its gradient is as large again, where a layer's largest is two thirds of it.
        """
        tokens, head = sampled * new_tokens, self.vocab_size * self.model_dim + self.model_dim
        blocks = [self.plain_block] if self.num_blocks > len(self.at) else []
        blocks += [] if self.replaced_block is None else [self.replaced_block]
        return max([head * 6 // 5, *(block.checked_params(tokens) for block in blocks)])

    @property
    def attends(self) -> bool:
        return bool(self.num_blocks)

    def checked_activations(self, sequences: int, new_tokens: int) -> int:
        """Of one block at a time, the tokens between all, and logits of all tokens with their softmax and gradients."""
        tokens = min(sequences, self.SAMPLED) * new_tokens
        attended = self.attention.checked_activations(tokens, tokens, new_tokens, self.model_dim)
        of_block = attended + 3 * tokens * self.ffn_hidden
        between = (self.num_blocks + 1) * tokens * self.model_dim
        return (of_block if self.num_blocks else 0) + between + 4 * tokens * self.vocab_size

    @property
    def end_params(self) -> int:
        """Embedding, the scale of the last norm, and the head where it is no view of the embedding."""
        matrices = 1 if self.tied else 2
        return matrices * self.vocab_size * self.model_dim + self.model_dim

    def cost(self, step: Step) -> Cost:
        """The sum of its parts, each for the tokens of one rank."""
        parts = [(self.ends_cost(step), 1)]
        if stays := self.num_blocks - len(self.at):
            parts.append((self.plain_block.cost(step), stays))
        return joined([*parts, *self._replaced_costs(step)], step)

    def _replaced_costs(self, step: Step) -> list[tuple[Cost, int]]:
        """Of the blocks with the layer. What was counted of all of them is shared out evenly."""
        block, count = self.replaced_block, len(self.at)
        if block is None:
            return []
        counted = {name: getattr(step, name) for name in ("unique_rows", "active_experts", "assignments")}
        one = replace(step, **{name: None if value is None else value / count for name, value in counted.items()})
        if self.pool == "own" or not isinstance(block.ffn, MemorySpec):
            return [(block.cost(one), count)]
        reader = joined([(block.attention_cost(one), 1), (block.ffn.cost_beside_pool(one), 1)], step)
        return [(block.cost(one), 1), (reader, count - 1)] if count > 1 else [(block.cost(one), 1)]

    def ends_cost(self, step: Step) -> Cost:
        """Of the embedding, whose rows are read at random, and of the head.

        A prefill and a decode step want the logits of the last token of each sequence. A backward pass wants the loss
        of all; it reads the embedding's rows no more, and writes a gradient as large as the embedding.
        """
        d, s, mode, tokens = self.model_dim, self.item_bytes, step.mode, step.tokens
        row, scored = d * s, tokens if step.has_backward else step.sequences
        rows = expected_unique(self.vocab_size, tokens, 1)
        embed = accounting.passes(
            mode,
            StageCost("embed", 0.0, 0.0, tokens * (_ID_BYTES + row), rows * row, tokens * row, rows * row),
            StageCost("embed", stream_bytes=tokens * row + self.vocab_size * row, backward=True),
        )
        stages = [*embed, *accounting.linear("head", scored, d, self.vocab_size, s, mode)]
        # in training the logits, in fp32 too, their softmax and its gradient, and that of the logits
        logits = scored * self.vocab_size * (2 * s + 3 * 4 if step.has_backward else s)
        hidden = 2 * tokens * row * (2 if step.has_backward else 1)
        cost = accounting.replicated_cost(step, self.end_params, s, stages, logits + hidden)
        unread = 0 if self.tied else (self.vocab_size - 1) * d  # of the embedding a token reads one row
        return replace(cost, active_params=cost.active_params - unread)
