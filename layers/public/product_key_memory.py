"""The memory layer of PyPI's ``product-key-memory``: ``PKM``, of arXiv 1907.05242.

Letters: B tokens, T of them checked, d model dim, H heads, c = dk/2, n sub-keys a half, k rows a head, N rows.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.checking import reference
from membench.layers.layer import Selection
from membench.layers.public.public_layer import PublicLayer, installed, sizes
from membench.layers.spec import MemorySpec

_NOTES = (
    "0.3.0: each half of a query passes a LayerNorm, or with use_layernorm=False a BatchNorm; ours has no norm here",
    "0.3.0: the table is an EmbeddingBag without sparse=True: a gradient as large as it, a step pays for every row",
    "0.3.0: with concat_values_and_combine=True (off here) rows are summed without their scores, and neither keys nor "
    "queries get a gradient",
)


class ProductKeyMemory(PublicLayer):
    """Norms and dropouts that can be off are off."""

    counted_as: MemorySpec

    def __init__(self, spec: MemorySpec) -> None:
        package, name = installed("product-key-memory", "product_key_memory")
        super().__init__(spec, (name, *_NOTES))
        self.pkm = package.PKM(
            spec.model_dim,
            heads=spec.heads,
            num_keys=spec.sub_keys,
            topk=spec.top_k,
            dim_head=spec.key_dim // 2,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pkm(x[None])[0]

    @torch.no_grad()
    def select(self, x: Tensor) -> Selection:
        """What its own forward hands its table."""
        handed: list[tuple[Tensor, Tensor]] = []

        def listen(table: torch.nn.Module, positional: tuple[Tensor], named: dict[str, Any]) -> None:
            handed.append((positional[0], named["per_sample_weights"]))

        listener = self.pkm.values.register_forward_pre_hook(listen, with_kwargs=True)
        try:
            self(x)
        finally:
            listener.remove()
        ((rows, weights),) = handed
        shape = len(x), self.counted_as.heads, self.counted_as.top_k
        return Selection(rows.view(shape), weights.view(shape))

    @property
    def table(self) -> Tensor:
        return self.pkm.values.weight

    def half_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm, heads = self.pkm.norm, self.counted_as.heads
        halves = (x @ self.pkm.to_queries.weight.T).view(len(x), 2, heads, -1)
        centred = halves - halves.mean(dim=-1, keepdim=True)
        deviation = torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + norm.eps)
        halves = centred / deviation * norm.weight + norm.bias
        first, second = torch.einsum("tphc,hnpc->pthn", halves, self.pkm.keys)
        return first, second

    def reference(self, x: Tensor, chosen: Tensor) -> Tensor:
        (first, second), n = self.half_scores(x), self.counted_as.sub_keys
        weights = functional.softmax(first.gather(-1, chosen // n) + second.gather(-1, chosen % n), dim=-1)
        return reference.weighted_bag(weights, self.table, chosen)


def build(
    model_dim: int, dtype: torch.dtype, *, num_keys: int | str, key_dim: int, heads: int = 4, top_k: int = 32
) -> ProductKeyMemory:
    """The factory; dimensions as of our ``memory``. Its own weights' distribution is as wide as ours.

    Raises:
        ModuleNotFoundError: product-key-memory is not installed.
        ValueError: a dimension makes no sense.
    """
    return ProductKeyMemory(
        sizes(MemorySpec, model_dim, dtype, num_keys=num_keys, key_dim=key_dim, heads=heads, top_k=top_k)
    )
