"""A Llama-style decoder as a layer: token embedding, blocks, last norm, head.

Letters: S sequences, T tokens of each, B = S·T, d model dim, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from membench.layers.initialize import fill_normal_
from membench.layers.kernels.cross_entropy import cross_entropy
from membench.layers.kernels.few_tokens import can_step
from membench.layers.kernels.head_step import head_step
from membench.layers.kernels.in_turn import finish_steps
from membench.layers.kernels.matmul import project
from membench.layers.kernels.rms_norm import rms_norm
from membench.layers.kernels.stages import stage
from membench.layers.layer import Layer, Routing, Touched, torch_dtype
from membench.layers.models.block import Block, held_note
from membench.layers.models.stack import Stack
from membench.layers.parallel.exchange import Exchange
from membench.layers.routing import StatedRouting
from membench.layers.spec import ModelSpec, Step
from membench.layers.tables.value_table import ValueTable


class Model(Layer):
    """Parameters ``embedding`` (V, d), ``blocks``, ``norm`` (d,) and, unless it is tied, ``head`` (V, d).

    In training mode it maps x (S, T + 1) int64 to the negative log-likelihoods (S, T), fp32, of each token after the
    first; else x (S, T) to the logits (S, V) of the token that comes next.
    """

    spec: ModelSpec
    blocks: Sequence[Block]

    def __init__(
        self,
        spec: ModelSpec,
        ranks: int | Exchange = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks)
        if self.exchange.stand_ins and spec.num_blocks:
            raise ValueError("a whole model is not built for one of several ranks: its blocks are, each by itself")
        options: dict[str, Any] = {"device": device, "dtype": torch_dtype(spec.dtype)}
        self.embedding = nn.Parameter(torch.empty(spec.vocab_size, spec.model_dim, **options))
        fill_normal_(self.embedding, 1.0 if not spec.tied else 1 / math.sqrt(spec.model_dim), generator)
        blocks: list[Block] = []
        pool: ValueTable | None = None
        for number in range(spec.num_blocks):
            shares = spec.pool == "shared" and number in spec.at
            block = Block(spec.block(number), ranks, device=device, generator=generator, table=pool if shares else None)
            blocks.append(block)
            if shares:
                (pool,) = block.tables()
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]
        self._stack = Stack(self.blocks, self)
        self.norm = nn.Parameter(torch.ones(spec.model_dim, **options))
        if not spec.tied:
            self.head = nn.Parameter(torch.empty(spec.vocab_size, spec.model_dim, **options))
            fill_normal_(self.head, 1 / math.sqrt(spec.model_dim), generator)
        self._sequences = 1

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """Losses (S, T) of x (S, T + 1) in training mode, else the next token's logits (S, V) of x (S, T)."""
        if routing is not None:
            raise ValueError("a model routes by itself: use routing kind 'routed'")
        if self.training:
            return self.losses(x)
        if x.shape[1] == 1:
            return self._through(x, self.logits)
        hidden = self.hidden(x).view(*x.shape, self.spec.model_dim)
        return self.logits(hidden[:, -1])

    def losses(self, x: Tensor) -> Tensor:
        """(S, T) fp32 of x (S, T + 1): -ln of the probability of each token after those before it."""
        logits = self.logits(self.hidden(x[:, :-1]))
        with stage("head"):
            return cross_entropy(logits, x[:, 1:].flatten()).view(len(x), x.shape[1] - 1)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, d) after the last block, of x (S, T) int64."""
        return self._through(x, None)

    def _through(self, x: Tensor, end: Callable[[Tensor], Tensor] | None) -> Tensor:
        """What ``end`` makes of ``hidden``."""
        with stage("embed"):
            hidden = functional.embedding(x.flatten(), self.embedding)
        if self._stack.blocks is not self.blocks:
            self._stack = Stack(self.blocks, self)
        found = self._stack(hidden, len(x), end=end)
        trained = self.blocks if self.training else ()
        losses = [block.auxiliary_loss for block in trained if block.auxiliary_loss is not None]
        if losses or self.auxiliary_loss is not None:  # a module's attributes are slow to set
            self.auxiliary_loss = torch.stack(losses).sum() if losses else None
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, V) of rows (R, d)."""
        head = self.embedding if self.spec.tied else self.head
        if can_step(hidden, self.norm, head):
            return head_step(hidden, self.norm, head, self.spec.norm_eps)
        finish_steps()
        with stage("head"):
            return project(rms_norm(hidden, self.norm, self.spec.norm_eps), head)

    def output_like(self, x: Tensor) -> Tensor:
        if self.training:
            return torch.empty(x.shape[0], x.shape[1] - 1, dtype=torch.float32, device=x.device)
        return self.norm.new_empty(x.shape[0], self.spec.vocab_size)

    def make_ready(self, step: Step, seed: int = 0) -> None:
        self._sequences = step.sequences
        for number, block in enumerate(self.blocks):
            block.make_ready(step, seed + number)

    def start(self, sequences: int, capacity: int) -> None:
        """Empty caches, for generation: ``next_logits`` then goes on after what it was given before."""
        for block in self.blocks:
            block.cache = block.new_cache(sequences, capacity)

    def next_logits(self, x: Tensor) -> Tensor:
        """(S, V) of new tokens x (S, T), which are kept in the caches."""
        with torch.no_grad():
            found = self(x)
        for block in self.blocks:
            assert block.cache is not None
            block.cache.advance(x.shape[1])
        return found

    def draw_tokens(self, tokens: int, generator: torch.Generator) -> Tensor:
        shape = (self._sequences, tokens // self._sequences + int(self.training))
        return torch.randint(self.spec.vocab_size, shape, generator=generator, device=generator.device)

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        if stated.kind != "routed" and self.spec.routed:
            raise ValueError(f"routing {stated.kind} cannot be imposed on a model: each layer routes by itself")
        return self.draw_tokens(tokens, generator), None

    def block_inputs(self, x: Tensor) -> Iterator[tuple[int, Block, Tensor]]:
        """Each block with its number and what it is given, without a graph, for x as ``forward`` takes it."""
        seen = x[:, :-1] if self.training else x
        hidden = functional.embedding(seen.flatten(), self.embedding)
        for number, block in enumerate(self.blocks):
            block.sequences = len(x)
            hidden = hidden.detach()
            yield number, block, hidden
            hidden = block(hidden)

    @torch.no_grad()
    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        """Of all layers together, each with rows and experts of its own: every layer reads what it needs."""
        if not self.spec.routed:  # nothing is worth a forward pass
            return Touched()
        rows, loads, offset = [], [], 0
        for _, block, hidden in self.block_inputs(x):
            found = block.touched(hidden, routing)
            if found.rows is not None and block.random_rows is not None:
                rows.append(found.rows.long() + offset)
                offset += len(block.random_rows)
            if found.expert_load is not None:
                loads.append(found.expert_load)
        return Touched(
            rows=torch.cat(rows) if rows else None,
            expert_load=torch.cat(loads) if loads else None,
        )

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        """Tokens are drawn by the vocabulary alone; what they touch depends on all weights.

        These are drawn one after the other from one generator, so the first and the last tell which they are.
        """
        drawn = {"vocab_size": self.spec.vocab_size, "sequences": self._sequences, "training": self.training}
        if not self.spec.routed:
            return drawn, []
        *_, last = self.parameters()
        return {**drawn, **self.spec.model_dump(mode="json")}, [self.embedding.detach()[:1], last.detach()]

    def tables(self) -> tuple[ValueTable, ...]:
        """A shared one once for each of its readers."""
        return tuple(table for block in self.blocks for table in block.tables())

    @property
    def random_rows(self) -> Tensor:
        """Of the first table that a block reads; where there is none, of the embedding."""
        found = (block.random_rows for block in self.blocks)
        return next((rows for rows in found if rows is not None), self.embedding.detach())

    @property
    def unavailable(self) -> str | None:
        return next((reason for block in self.blocks if (reason := block.unavailable)), None)

    @property
    def notes(self) -> tuple[str, ...]:
        caches = [block.cache for block in self.blocks if block.cache is not None and block.cache.held]
        of_layers = dict.fromkeys(note for block in self.blocks for note in block.ffn.notes)
        return (*([held_note(caches[0])] if caches else []), *of_layers)

    def context(self) -> tuple[Tensor, ...]:
        return tuple(part for block in self.blocks for part in block.context())

    @property
    def kv_cache_bytes(self) -> int:
        return sum(block.kv_cache_bytes for block in self.blocks)

    def balance(self, *, frozen: bool = False) -> None:
        for block in self.blocks:
            block.balance(frozen=frozen)

    def zero_gradients(self) -> None:
        super().zero_gradients()  # which reaches all parameters and tables: blocks have but their losses left
        for block in self.blocks:
            block.auxiliary_loss = block.ffn.auxiliary_loss = None
