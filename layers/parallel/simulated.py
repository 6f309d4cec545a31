"""One rank's share of a layer without the other ranks: policy ``rank``.

Tables are cut by columns. What the others would send is given with each call (``Routing.remote``), and what they would
send back has stand-ins, so that this rank computes as much as it would among them.

Letters: P ranks, B tokens of this one, M = P·B, L lookups a token, D columns of a table, d model dim.
"""

import torch
from torch import Tensor

from membench.layers.kernels.lookups import Lookups
from membench.layers.parallel.exchange import Exchange, TableCall
from membench.layers.parallel.remote import Remote, RemoteLookups


class SimulatedTableCall(TableCall):
    """This rank's tokens first, then those of ``remote``: their bags stand in for columns that others would send."""

    def __init__(self, lookups: Lookups, weights: Tensor, remote: RemoteLookups, ranks: int) -> None:
        super().__init__(lookups, weights)
        self._remote, self._ranks = remote, ranks

    def give_back(self, bags: Tensor) -> Tensor:
        return bags.view(self._ranks, -1, bags.shape[1]).transpose(0, 1).flatten(1)

    def columns_of(self, x: Tensor) -> Tensor:
        if self._remote.columns is None:
            raise ValueError("peer needs the columns and products of RemoteLookups too")
        return torch.cat([x[:, : x.shape[1] // self._ranks], self._remote.columns])

    def whole_products(self, dots: Tensor) -> Tensor:
        if self._remote.products is None:
            raise ValueError("peer needs the columns and products of RemoteLookups too")
        return dots + self._remote.products.flatten(1)


class SimulatedExchange(Exchange):
    """Of one of ``ranks``, the first; of experts it has as many as the fullest rank."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.stand_ins = ranks, ranks - 1

    def columns_held(self, columns: int) -> tuple[int, int]:
        return 0, columns // self.ranks

    def experts_held(self, num_experts: int) -> tuple[int, int]:
        return 0, -(-num_experts // self.ranks)

    def read(
        self, rows: Tensor, weights: Tensor, num_rows: int, remote: Remote | None, *, weights_by_columns: bool
    ) -> TableCall:
        del weights_by_columns
        if not isinstance(remote, RemoteLookups):
            raise ValueError(f"a share of a table over {self.ranks} ranks needs the others' RemoteLookups")
        rows = torch.cat([rows, remote.indices.flatten(1)])
        weights = torch.cat([weights, remote.weights.flatten(1)])
        return SimulatedTableCall(Lookups(rows, num_rows), weights, remote, self.ranks)


def exchange_of(ranks: int | Exchange) -> Exchange:
    """The exchange itself where one is given; of a number of ranks, that of one of them without the others."""
    if isinstance(ranks, Exchange):
        return ranks
    return Exchange() if ranks == 1 else SimulatedExchange(ranks)
