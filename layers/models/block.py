"""A decoder's block as a layer: x + attention(norm(x)), then + ffn(norm(.)).

Letters: S sequences, T new tokens of each, B = S·T tokens, sequence after sequence, d model dim.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from membench.layers.kernels.few_tokens import can_step
from membench.layers.kernels.in_turn import finish_steps
from membench.layers.kernels.rms_norm import rms_norm
from membench.layers.layer import Layer, Routing, Selection, Touched, torch_dtype
from membench.layers.models.attention import Attention
from membench.layers.models.cache import KVCache
from membench.layers.models.stack import Stack
from membench.layers.own_layers import own_layer
from membench.layers.parallel.exchange import Exchange
from membench.layers.routing import StatedRouting
from membench.layers.spec import BlockSpec, Spec, Step
from membench.layers.spec.attention import KEEPS_A_CACHE
from membench.layers.tables.value_table import ValueTable

_FILLED_BY = 3  # added to a layer's seed: what the context's keys and values are drawn from


class Block(Layer):
    """Parameters of ``attention`` and ``ffn``, and the scales ``attention_norm`` and ``ffn_norm`` (d,).

    Over P ranks the FFN is split as its kind is; attention is whole on each, for the rank's own sequences.
    ``sequences`` is S, of which the tokens are.
    """

    spec: BlockSpec

    def __init__(
        self,
        spec: BlockSpec,
        ranks: int | Exchange = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        table: ValueTable | None = None,
    ) -> None:
        super().__init__(spec, ranks)
        options: dict[str, Any] = {"device": device, "dtype": torch_dtype(spec.dtype)}
        self.attention_norm = nn.Parameter(torch.ones(spec.model_dim, **options))
        self.ffn_norm = nn.Parameter(torch.ones(spec.model_dim, **options))
        self.attention = Attention(spec.attention, spec.model_dim, generator=generator, **options)
        self.ffn = own_layer(spec.ffn, ranks, device=device, generator=generator, table=table)
        self.cache: KVCache | None = None
        self.sequences = 1

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y (B, d) of x (B, d), which come after what the cache holds, if there is one."""
        self.check_tokens(x, self.attention.qkv)
        swiglu = self.ffn.swiglu
        if swiglu is not None and self._can_step(x):
            y = self._stepped(x, (self.ffn_norm, *swiglu))
        else:
            between = self._attended(x)
            if not self.ffn.STEPS_IN_TURN:
                finish_steps()
            y = self.ffn.step(between, routing, (self.ffn_norm, self.spec.norm_eps))
            if y is None:
                finish_steps()
                y = between + self.ffn(self._normed(between, self.ffn_norm), routing)
        if self.auxiliary_loss is not self.ffn.auxiliary_loss:  # a module's attributes are slow to set
            self.auxiliary_loss = self.ffn.auxiliary_loss
        return y

    def _attended(self, x: Tensor) -> Tensor:
        """(B, d): x + attention(norm(x))."""
        if self._can_step(x):
            return self._stepped(x, None)
        finish_steps()
        new = len(x) // max(1, self.sequences)
        normed = self._normed(x, self.attention_norm).view(self.sequences, new, self.spec.model_dim)
        return x + self.attention(normed, self.cache).view_as(x)

    def _can_step(self, x: Tensor) -> bool:
        """Whether x (B, d) is a token of each sequence, after what the cache holds, and ``block_step`` takes it."""
        return self.cache is not None and x.shape[0] == self.sequences and can_step(x, self.attention.qkv)

    def _stepped(self, x: Tensor, ffn: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        assert self.cache is not None
        return self.attention.step(x, self.attention_norm, self.spec.norm_eps, self.cache, ffn)

    def _normed(self, x: Tensor, scale: Tensor) -> Tensor:
        return rms_norm(x, scale, self.spec.norm_eps)

    def ffn_input(self, x: Tensor) -> Tensor:
        """(B, d), what the FFN is given for x (B, d)."""
        return self._normed(self._attended(x), self.ffn_norm)

    def followed_by(self, copies: Sequence[Self]) -> Callable[[Tensor, Routing | None], Tensor]:
        blocks: list[Any] = [self, *copies]
        stack = Stack(blocks)
        return lambda x, routing=None: stack(x, self.sequences, routing)

    def make_ready(self, step: Step, seed: int = 0) -> None:
        """A KV cache for a prefill or decode step, with a random context; none for the others."""
        self.sequences = step.sequences
        self.cache = None
        if step.mode in KEEPS_A_CACHE:
            self.cache = self.new_cache(step.sequences, step.context + step.new_tokens)
            if step.context:
                device = self.attention_norm.device
                self.cache.fill(step.context, torch.Generator(device=device).manual_seed(seed + _FILLED_BY))

    def new_cache(self, sequences: int, capacity: int) -> KVCache:
        """An empty cache for so many tokens of each sequence."""
        shape, like = self.spec.attention, self.attention_norm
        return KVCache.empty(sequences, shape.kv_heads, capacity, shape.head_dim, dtype=like.dtype, device=like.device)

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        """x, and how the FFN's tokens are routed; where that is drawn, it is for the FFN as if it stood alone."""
        x = self.draw_tokens(tokens, generator)
        return x, self.ffn.draw_input(tokens, stated, generator)[1]

    def drawn_by(self) -> tuple[dict[str, Any], list[Tensor]]:
        settings, tensors = super().drawn_by()
        return {**settings, "sequences": self.sequences}, tensors

    def select(self, x: Tensor) -> Selection | None:
        """The FFN's choice for its tokens (B, …)."""
        return self.ffn.select(self.ffn_input(x))

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        return self.ffn.touched(self.ffn_input(x), routing) if self.spec.routed else Touched()

    def tables(self) -> tuple[ValueTable, ...]:
        return self.ffn.tables()

    @property
    def counted_as(self) -> Spec:
        return self.spec

    @property
    def random_rows(self) -> Tensor | None:
        return self.ffn.random_rows

    @property
    def unavailable(self) -> str | None:
        return self.ffn.unavailable

    @property
    def notes(self) -> tuple[str, ...]:
        held = () if self.cache is None or not self.cache.held else (held_note(self.cache),)
        return (*held, *self.ffn.notes)

    def context(self) -> tuple[Tensor, ...]:
        return () if self.cache is None else self.cache.context()

    @property
    def kv_cache_bytes(self) -> int:
        return 0 if self.cache is None else self.cache.nbytes

    def balance(self, *, frozen: bool = False) -> None:
        self.ffn.balance(frozen=frozen)

    def zero_gradients(self) -> None:
        super().zero_gradients()
        self.ffn.zero_gradients()


def held_note(cache: KVCache) -> str:
    """What of a decoding does not go on: every step is the one after the same context."""
    return f"depth held: each step comes after the same {cache.held} tokens of context"
