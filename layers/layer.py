"""The face of a layer: what membench, or anyone, may know of one.

Letters: B tokens of this rank, P ranks, d model dim, H heads, k rows a head reads,
K experts a token uses, E experts, D value dim.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layers.spec import Spec

if TYPE_CHECKING:
    from layers.value_table import ValueTable


@dataclass(frozen=True, slots=True)
class Selection:
    """What a layer chose: rows (B, H, k), experts (B, K), or under expert choice tokens (E, C).

    ``weights`` has the shape of ``indices``, fp32, and carries the gradient of the scores.
    ``auxiliary_loss`` is the balancing loss of a router, or None.
    """

    indices: Tensor
    weights: Tensor
    auxiliary_loss: Tensor | None = None


@dataclass(frozen=True, slots=True)
class RemoteLookups:
    """What the other P-1 ranks would send a column shard of a table.

    indices, weights ((P-1)·B, H, k); for peer also ``columns`` ((P-1)·B, d/P), their tokens'
    columns, and ``products`` (P·B, H, k), the other columns' share of every u·x.
    """

    indices: Tensor
    weights: Tensor
    columns: Tensor | None = None
    products: Tensor | None = None


@dataclass(frozen=True, slots=True)
class RemoteAssignments:
    """How many tokens each expert of this rank receives, from all ranks: (ceil(E/P),) int64.

    The received rows, sorted by expert, stand in for other ranks' tokens: row i is a copy of
    this rank's token i mod B, and token t gets rows t, B + t, …, (K-1)·B + t back, weighed by
    its first to K-th weight. So the K results of a token come from K different experts, unless
    one expert gets more than B rows. The most loaded rank receives at least B·K rows.
    """

    counts: Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """How the tokens of one call are routed, where it is not by the layer's choice alone.

    ``selected`` replaces the chosen indices; the weights stay those of the layer's own
    choice, so all of its arithmetic is still done.
    """

    selected: Tensor | None = None
    remote: RemoteLookups | RemoteAssignments | None = None


class Layer(nn.Module):
    """Maps (B, d) to (B, d).

    A table's values get no ``.grad``: after a backward each of ``tables()`` holds a
    ``RowGradient`` of the touched rows. All other parameters use autograd as usual.
    ``auxiliary_loss`` is that of the last forward in training mode, to be added to the loss.
    """

    def __init__(self, spec: Spec, ranks: int = 1) -> None:
        super().__init__()
        if error := spec.split_error(ranks):
            raise ValueError(error)
        self.spec = spec
        self.ranks = ranks
        self.auxiliary_loss: Tensor | None = None

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """y (B, d) of x (B, d)."""
        raise TypeError(f"{type(self).__name__} must define forward()")

    def select(self, x: Tensor) -> Selection | None:
        """The layer's own choice for x (B, d); None where nothing is chosen."""
        del x
        return None

    def tables(self) -> "tuple[ValueTable, ...]":
        """The value tables this layer reads, with their row gradients."""
        return ()

    def balance(self, *, frozen: bool = False) -> None:
        """What a router changes after a training step besides its weights; ``frozen``: changes nothing."""
        del frozen

    def zero_gradients(self) -> None:
        """Forget all gradients, of parameters and of table rows, and the last auxiliary loss with its graph."""
        self.zero_grad(set_to_none=True)
        self.auxiliary_loss = None
        for table in self.tables():
            table.gradient = None


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a spec's dtype name."""
    return getattr(torch, name)
