"""PEER: product-key retrieval of experts with one hidden neuron (arXiv 2407.04153).

Letters: B tokens, d model dim, P ranks, H heads, k experts a head, N experts.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.kernels.peer_step import peer_step
from membench.layers.kernels.stages import stage
from membench.layers.layer import Routing, Selection, torch_dtype
from membench.layers.parallel.exchange import Exchange
from membench.layers.parallel.remote import RemoteLookups
from membench.layers.product_keys import RetrievalLayer
from membench.layers.spec import PeerSpec
from membench.layers.swiglu import SwiGLU
from membench.layers.tables.value_table import ValueTable


class Peer(RetrievalLayer):
    """Expert i computes gelu(u_i · x) v_i, u the rows of ``down`` and v those of ``up``, both (N, d/P).

    All k experts of every head are used, weighted by the softmax of their scores. Over P ranks both tables are cut
    alike; where that is by columns, u·x is a sum over ranks.
    """

    spec: PeerSpec

    def __init__(
        self,
        spec: PeerSpec,
        ranks: int | Exchange = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device=device, generator=generator)
        dtype, std = torch_dtype(spec.dtype), 1 / math.sqrt(spec.model_dim)
        shape, place = self.table_shape(spec.model_dim), self.table_place(spec.model_dim)
        self.down = ValueTable(*shape, dtype=dtype, device=device, std=std, generator=generator, place=place)
        self.up = ValueTable(*shape, dtype=dtype, device=device, std=std, generator=generator, place=place)
        self.down.over_columns = self.up.over_columns = self.exchange.over_columns
        if spec.companion_hidden:
            self.companion = SwiGLU(
                spec.model_dim,
                spec.companion_hidden,
                device=device,
                dtype=dtype,
                generator=generator,
                stage_prefix="companion_",
            )

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        self.check_tokens(x, self.query)
        if (y := self.step(x, routing, None)) is not None:
            return y
        selection = self.select(x)
        with stage("experts"):
            y = self._experts(x, selection, routing)
        return y + self.companion(x) if self.spec.companion_hidden else y

    def step(self, x: Tensor, routing: Routing | None, block: tuple[Tensor, float] | None) -> Tensor | None:
        retrieving = self.retrieving(x, routing, block)
        if retrieving is None:
            return None
        y = peer_step(retrieving, self.down.weight, self.up.weight)
        return self.companion.step(x, block, y) if self.spec.companion_hidden else y

    def _experts(self, x: Tensor, selection: Selection, routing: Routing | None) -> Tensor:
        call = self.read(selection, routing, weights_by_columns=False)
        hidden = call.whole_products(self.down.dots(call.lookups, call.columns_of(x)))
        scaled = call.of_all_columns(call.weights * functional.gelu(hidden))
        return call.give_back(self.up.bag(call.lookups, scaled))

    def remote_lookups(
        self, indices: Tensor, weights: Tensor, x_others: Tensor, generator: torch.Generator
    ) -> RemoteLookups:
        # u·x of unit-variance tokens has unit variance, of which the other ranks hold (P-1)/P
        share = math.sqrt((self.ranks - 1) / self.ranks)
        shape = (len(x_others) * self.ranks // (self.ranks - 1), *indices.shape[1:])
        products = share * torch.randn(shape, dtype=torch.float32, device=x_others.device, generator=generator)
        columns = x_others[:, : self.spec.model_dim // self.ranks].contiguous()
        return RemoteLookups(indices, weights, columns, products)

    def tables(self) -> tuple[ValueTable, ...]:
        return (self.down, self.up)
