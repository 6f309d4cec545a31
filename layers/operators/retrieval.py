"""Operators of product-key retrieval: key scores, and the choice by them.

Scores lie in memory as (H, 2, B, n); seen from outside they are (B, H, 2, n), a view.

Letters: B tokens, H heads, n sub-keys a half, N = n² rows, c = dk/2 columns of a half, k rows a head.
"""

import math

import torch
from torch import Tensor, nn

from membench.layers.initialize import fill_normal_
from membench.layers.kernels.key_scores import key_scores
from membench.layers.kernels.lookups import index_dtype
from membench.layers.kernels.precision import as_given
from membench.layers.kernels.stages import stage
from membench.layers.kernels.top_k import product_key_top_k
from membench.layers.layer import Routing, Selection, torch_dtype
from membench.layers.operators.operator import Operator
from membench.layers.spec import KeyScoresSpec, ProductKeyTopKSpec


class KeyScores(Operator):
    """y (B, H, 2, n) fp32 = x (B, H, 2, c), fp32 query halves, times ``keys`` (H, 2, n, c)."""

    spec: KeyScoresSpec

    def __init__(
        self,
        spec: KeyScoresSpec,
        ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device)
        shape, dtype = (spec.heads, 2, spec.sub_keys, spec.key_dim // 2), torch_dtype(spec.dtype)
        keys = torch.empty(shape, dtype=dtype, device=device)
        self.keys = nn.Parameter(fill_normal_(keys, 1 / math.sqrt(shape[-1]), generator))

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        shape = (tokens, self.spec.heads, 2, self.spec.key_dim // 2)
        return torch.randn(shape, dtype=torch.float32, device=self.device, generator=generator), None

    def output_like(self, x: Tensor) -> Tensor:
        return _outside(x.new_empty(self.spec.heads, 2, x.shape[0], self.spec.sub_keys))

    def operate(self, x: Tensor, routing: Routing | None) -> Tensor:
        del routing
        with stage("scores"):
            return _outside(key_scores(x, self.keys, normalized=False, eps=0.0))

    def plain(self, x: Tensor, routing: Routing | None) -> Tensor:
        del routing
        with stage("scores"), as_given(x):
            return _outside(torch.einsum("bhsc,hsnc->hsbn", x, self.keys.float()))


class ProductKeyTopK(Operator):
    """y (B, H, k) fp32 = the softmax of the best k sums of x (B, H, 2, n), fp32 scores of both halves."""

    spec: ProductKeyTopKSpec

    def __init__(
        self,
        spec: ProductKeyTopKSpec,
        ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        del generator  # there are no weights to draw
        super().__init__(spec, ranks, device)

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        shape = (self.spec.heads, 2, tokens, self.spec.sub_keys)
        return _outside(torch.randn(shape, dtype=torch.float32, device=self.device, generator=generator)), None

    def output_like(self, x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], self.spec.heads, self.spec.top_k)

    def select(self, x: Tensor) -> Selection:
        """The chosen rows i·n + j (B, H, k), best first, with their weights."""
        with self.on_path():
            rows, weights = self._plain(x) if self.spec.path == "plain" else self._operate(x)
        return Selection(rows, weights)

    def operate(self, x: Tensor, routing: Routing | None) -> Tensor:
        del routing
        with stage("top_k"):
            return product_key_top_k(_inside(x), self.spec.top_k)[1]

    def plain(self, x: Tensor, routing: Routing | None) -> Tensor:
        del routing
        with stage("top_k"):
            return self._plain(x)[1]

    def _operate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        halves, weights = product_key_top_k(_inside(x), self.spec.top_k)
        first, second = halves.to(index_dtype(self.spec.num_keys)).unbind()
        return first * self.spec.sub_keys + second, weights

    def _plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both halves' top-k, all k² sums, and their top-k."""
        k = self.spec.top_k
        (first, i), (second, j) = (x[:, :, half].topk(k, dim=-1) for half in (0, 1))
        sums, best = (first[..., :, None] + second[..., None, :]).flatten(-2).topk(k, dim=-1)
        rows = i.gather(-1, best // k) * self.spec.sub_keys + j.gather(-1, best % k)
        return rows, sums.softmax(dim=-1)


def _outside(scores: Tensor) -> Tensor:
    """(B, H, 2, n) of (H, 2, B, n)."""
    return scores.permute(2, 0, 1, 3)


def _inside(scores: Tensor) -> Tensor:
    """(H, 2, B, n) of (B, H, 2, n)."""
    return scores.permute(1, 2, 0, 3)
