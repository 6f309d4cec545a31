"""A memory layer out of torch's own calls, around ``torch.nn.EmbeddingBag``, as public code has it.

Letters: B tokens, d model dim, D value dim, H heads, c = dk/2, n sub-keys a half, k rows a head, N rows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from membench.layers.initialize import fill_normal_
from membench.layers.layer import Selection
from membench.layers.public.public_layer import PublicLayer, sizes
from membench.layers.spec import MemorySpec

_DENSE_NOTES = ("EmbeddingBag without sparse=True: a gradient as large as the table, a step pays for every row",)
_SPARSE_NOTES = (
    "EmbeddingBag with sparse=True: the gradient has a row for each lookup, repeats included",
    "SparseAdam sums those rows, and has no weight decay",
)


class BagMemory(PublicLayer):
    """Query projection, two einsums, three top-k, softmax, bag. All k² sums of a head are formed.

    Parameters: ``query`` (H·dk, d), ``keys`` (H, 2, n, c), and the bag's ``weight`` (N, d).
    """

    counted_as: MemorySpec

    def __init__(self, spec: MemorySpec, dtype: torch.dtype, *, sparse: bool) -> None:
        super().__init__(spec, _SPARSE_NOTES if sparse else _DENSE_NOTES)
        d, half = spec.model_dim, spec.key_dim // 2
        self.query = nn.Parameter(torch.empty(spec.heads * spec.key_dim, d, dtype=dtype))
        self.keys = nn.Parameter(torch.empty(spec.heads, 2, spec.sub_keys, half, dtype=dtype))
        rows = torch.empty(spec.num_keys, d, dtype=dtype)
        for weight, std in ((self.query, 1 / math.sqrt(d)), (self.keys, 1 / math.sqrt(half)), (rows, 1 / math.sqrt(d))):
            fill_normal_(weight, std)
        self.bag = nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode="sum", sparse=sparse)

    def forward(self, x: Tensor) -> Tensor:
        selection = self.select(x)
        return self.bag(selection.indices.flatten(1), per_sample_weights=selection.weights.flatten(1))

    def select(self, x: Tensor) -> Selection:
        spec = self.counted_as
        queries = functional.linear(x, self.query).view(len(x), spec.heads, 2, -1)
        first = torch.einsum("bhc,hnc->bhn", queries[:, :, 0], self.keys[:, 0])
        second = torch.einsum("bhc,hnc->bhn", queries[:, :, 1], self.keys[:, 1])
        (first, rows), (second, columns) = first.topk(spec.top_k), second.topk(spec.top_k)
        sums = (first[..., :, None] + second[..., None, :]).flatten(-2)
        indices = (rows[..., :, None] * spec.sub_keys + columns[..., None, :]).flatten(-2)
        best, place = sums.topk(spec.top_k)
        return Selection(indices.gather(-1, place), functional.softmax(best, dim=-1))

    @property
    def table(self) -> Tensor:
        return self.bag.weight

    def our_weights(self) -> dict[str, Tensor]:
        return {"query": self.query, "keys": self.keys, "table": self.bag.weight}

    def optimizers(self, name: str, learning_rate: float) -> list[torch.optim.Optimizer]:
        """As its base has them; with sparse gradients ``lazy_adam`` is SparseAdam on the table, AdamW beside it.

        Raises:
            ValueError: the gradients do not suit the optimizer.
        """
        if not self.bag.sparse:
            return super().optimizers(name, learning_rate)
        if name == "sgd":
            return [torch.optim.SGD(self.parameters(), lr=learning_rate)]
        if name != "lazy_adam":
            raise ValueError(f"its table's gradient is sparse: optimizer lazy_adam or sgd, not {name}")
        table = torch.optim.SparseAdam([self.bag.weight])
        table.param_groups[0]["lr"] = learning_rate  # its constructor refuses 0, its step does not
        return [torch.optim.AdamW([self.query, self.keys], lr=learning_rate, fused=True), table]


def build(
    model_dim: int,
    dtype: torch.dtype,
    *,
    num_keys: int | str,
    key_dim: int,
    heads: int = 4,
    top_k: int = 32,
    sparse: bool = False,
) -> BagMemory:
    """The factory; dimensions as of our ``memory``, ``sparse`` as of ``torch.nn.EmbeddingBag``.

    Raises:
        ValueError: a dimension makes no sense.
    """
    spec = sizes(MemorySpec, model_dim, dtype, num_keys=num_keys, key_dim=key_dim, heads=heads, top_k=top_k)
    return BagMemory(spec, dtype, sparse=sparse)
