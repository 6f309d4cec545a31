"""Causal self-attention with rotary positions and fewer key heads than query heads: by torch's fused kernels, but of
short sequences and of a single new token by ours.

Letters: S sequences, T new tokens of each, C tokens of context, d model dim, h query heads, g key and value heads,
c head dim.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from membench.layers.initialize import fill_normal_
from membench.layers.kernels.attend_last import attend_last, can_attend
from membench.layers.kernels.block_step import block_step
from membench.layers.kernels.matmul import project
from membench.layers.kernels.short_attention import is_short, short_attention
from membench.layers.kernels.stages import stage
from membench.layers.models.cache import KVCache
from membench.layers.models.rotary import turned, turns, turns_at
from membench.layers.spec import AttentionSpec


class Attention(nn.Module):
    """Parameters ``qkv`` ((h + 2g)·c, d), queries first, and ``out`` (d, h·c)."""

    def __init__(
        self,
        spec: AttentionSpec,
        model_dim: int,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.qkv = nn.Parameter(torch.empty(spec.qkv_width, model_dim, device=device, dtype=dtype))
        self.out = nn.Parameter(torch.empty(model_dim, spec.query_width, device=device, dtype=dtype))
        fill_normal_(self.qkv, 1 / math.sqrt(model_dim), generator)
        fill_normal_(self.out, 1 / math.sqrt(spec.query_width), generator)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(S, T, d) of x (S, T, d), which come after what the cache holds."""
        sequences, new, width = x.shape
        tokens = sequences * new
        with stage("qkv"):
            projected = project(x.flatten(0, 1), self.qkv).view(sequences, new, self.spec.qkv_width)
        with stage("attention"):
            attended = self._attend(projected, cache)
        with stage("out_proj"):
            return project(attended.reshape(tokens, self.spec.query_width), self.out).view(sequences, new, width)

    def step(
        self, x: Tensor, scale: Tensor, eps: float, cache: KVCache, ffn: tuple[Tensor, Tensor, Tensor] | None
    ) -> Tensor:
        """(S, d): x + this of the norm of x (S, d), one token of each sequence, and then ``ffn``: ``block_step``."""
        keys, values = cache.place(1)
        return block_step(
            x, scale, self.qkv, self.out, *self.angles_at(cache.held, x), keys, values, cache.held, eps, ffn
        )

    def _attend(self, projected: Tensor, cache: KVCache | None) -> Tensor:
        """(S, T, h·c) of the projected queries, keys and values (S, T, (h + 2g)·c)."""
        spec, (sequences, new, _) = self.spec, projected.shape
        before = cache.held if cache else 0
        if new == 1 and cache is not None and can_attend(projected, cache.keys):
            cosines, sines = self.angles_at(before, projected)
            keys, values = cache.place(1)
            return attend_last(projected[:, 0], cosines, sines, keys, values, before).view(sequences, 1, -1)
        if cache is None and is_short(projected):
            return short_attention(projected, *self._angles(0, new, projected), spec.heads)
        heads = projected.view(sequences, new, spec.heads + 2 * spec.kv_heads, spec.head_dim).transpose(1, 2)
        placed, values = heads.split([spec.heads + spec.kv_heads, spec.kv_heads], dim=1)
        queries, keys = turned(placed, *self._angles(before, new, projected)).split([spec.heads, spec.kv_heads], dim=1)
        if cache is not None:
            keys, values = cache.write(keys, values)
        if new == 1:
            found = self._of_last(queries, keys, values)
        else:
            mask = _causal(new, before + new, str(keys.device)) if before else None
            found = functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=spec.heads != spec.kv_heads,
            )
        return found.transpose(1, 2).reshape(sequences, new, spec.query_width)

    def _of_last(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Of one new token, which sees all keys: the query heads of a key head are rows of one product."""
        sequences, _, _, head_dim = queries.shape
        grouped = queries.reshape(sequences, self.spec.kv_heads, -1, head_dim)
        found = functional.scaled_dot_product_attention(grouped, keys, values)
        return found.reshape(sequences, self.spec.heads, 1, head_dim)

    def _angles(self, before: int, new: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, c) of the new tokens' positions."""
        cosines, sines = self.turns(before + new, like)
        return cosines[before : before + new], sines[before : before + new]

    def turns(self, positions: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (P, c) of at least so many positions."""
        return turns(positions, self.spec.head_dim, self.spec.rope_theta, like.dtype, str(like.device))

    def angles_at(self, position: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (c,) of one position."""
        return turns_at(position, self.spec.head_dim, self.spec.rope_theta, like.dtype, str(like.device))


@lru_cache(maxsize=4)
def _causal(new: int, seen: int, device: str) -> Tensor:
    """(T, C + T): which of all tokens each of the last T sees. Made once, and not in every block."""
    with torch.inference_mode(False):  # kept for training, too
        return torch.ones(new, seen, dtype=torch.bool, device=device).tril(seen - new)
