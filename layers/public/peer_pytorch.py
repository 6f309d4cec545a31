"""The layer of PyPI's ``PEER-pytorch``: ``PEER``, of arXiv 2407.04153.

Letters: B tokens, d model dim, H heads, c = dk/2, n sub-keys a half, k experts a head, N experts.
"""

import math

import torch
from torch import Tensor

from membench.layers.initialize import fill_normal_
from membench.layers.layer import Selection
from membench.layers.public.public_layer import PublicLayer, installed, sizes
from membench.layers.spec import PeerSpec

_NOTES = (
    "0.2.2: by default (non_competing_scores=True) a head uses 1 expert, whatever num_experts_per_head says; "
    "here it is False, and all k are used",
    "0.2.2: the rows of both tables are copied out, B·H·k·d numbers each",
    "0.2.2: the tables are Embedding without sparse=True: gradients as large as they, a step pays for every row",
)


class PublicPeer(PublicLayer):
    """All k experts of every head used, their scores through a softmax, as in the paper."""

    counted_as: PeerSpec

    def __init__(self, spec: PeerSpec) -> None:
        package, name = installed("PEER-pytorch", "PEER_pytorch")
        super().__init__(spec, (name, *_NOTES))
        self.peer = package.PEER(
            spec.model_dim,
            heads=spec.heads,
            num_experts=spec.num_keys,
            num_experts_per_head=spec.top_k,
            dim_key=spec.key_dim // 2,
            non_competing_scores=False,
        )
        self._spread_like_ours()

    @torch.no_grad()
    def _spread_like_ours(self) -> None:
        """Its own weights give nearly equal scores and outputs of a size that hides them from a check."""
        d, half = self.counted_as.model_dim, self.counted_as.key_dim // 2
        for weight in (self.peer.to_queries[0].weight, self.peer.weight_down_embed.weight, self.table):
            fill_normal_(weight, 1 / math.sqrt(d))
        fill_normal_(self.peer.keys, 1 / math.sqrt(half))

    def forward(self, x: Tensor) -> Tensor:
        return self.peer(x[None])[0]

    @torch.no_grad()
    def select(self, x: Tensor) -> Selection:
        """What its own forward hands its tables, and the scores that it weighs the experts with."""
        rows: list[Tensor] = []
        weights: list[Tensor] = []
        listeners = [
            self.peer.weight_down_embed.register_forward_pre_hook(lambda table, given: rows.append(given[0])),
            self.peer.score_activation.register_forward_hook(lambda softmax, given, y: weights.append(y)),
        ]
        try:
            self(x)
        finally:
            for listener in listeners:
                listener.remove()
        return Selection(rows[0][0], weights[0][0])

    @property
    def table(self) -> Tensor:
        return self.peer.weight_up_embed.weight

    def our_weights(self) -> dict[str, Tensor]:
        heads, half = self.counted_as.heads, self.counted_as.key_dim // 2
        query = self.peer.to_queries[0].weight.view(2, heads, half, -1)  # halves before heads
        return {
            "query": query.transpose(0, 1).flatten(0, 2),
            "keys": self.peer.keys.transpose(1, 2),
            "down": self.peer.weight_down_embed.weight,
            "up": self.table,
        }


def build(
    model_dim: int, dtype: torch.dtype, *, num_keys: int | str, key_dim: int, heads: int = 8, top_k: int = 16
) -> PublicPeer:
    """The factory; dimensions as of our ``peer``.

    Raises:
        ModuleNotFoundError: PEER-pytorch is not installed.
        ValueError: a dimension makes no sense.
    """
    return PublicPeer(sizes(PeerSpec, model_dim, dtype, num_keys=num_keys, key_dim=key_dim, heads=heads, top_k=top_k))
