"""What a step on our layer is compared with: the public-style layer, and row-wise Adagrad in torch's own calls.

Letters: N rows, D columns, U distinct rows read.
"""

import torch
from torch import Tensor, nn

from membench.layers.layer import torch_dtype
from membench.layers.memory import Memory
from membench.layers.public.embedding_bag import BagMemory


def with_weights_of(layer: Memory) -> BagMemory:
    """The public-style layer on the very weights of ours: no second table is allocated."""
    with torch.device("meta"):
        public = BagMemory(layer.spec, torch_dtype(layer.spec.dtype), sparse=False)
    public.query, public.keys = layer.query, layer.keys
    public.bag.weight = nn.Parameter(layer.table.weight.detach())
    return public


class PlainRowAdagrad:
    """Row-wise Adagrad (``layers.kernels.row_update``) on the sparse gradient that an ``EmbeddingBag`` leaves.

    Args:
        weight: (N, D), the bag's.
    """

    def __init__(self, weight: Tensor, learning_rate: float, eps: float = 1e-8) -> None:
        self.weight, self.learning_rate, self.eps = weight, learning_rate, eps
        self.sums = weight.new_zeros(len(weight))

    @torch.no_grad()
    def step(self) -> None:
        """Sum the gradients of each row, (U, D), and update the rows that have one."""
        gradient: Tensor | None = self.weight.grad
        assert gradient is not None
        summed = gradient.coalesce()
        rows, values = summed.indices()[0], summed.values()
        self.sums.index_add_(0, rows, values.square().mean(dim=1))
        scale = self.learning_rate / (self.sums[rows].sqrt() + self.eps)
        self.weight.index_add_(0, rows, values * scale[:, None], alpha=-1)
