"""Operators over rows of tables: the weighted bag, and PEER's experts of one neuron.

Letters: B tokens, N rows, D columns, d model dim, H heads, k rows a head reads, L = H·k.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.kernels.lookups import Lookups, index_dtype
from membench.layers.kernels.stages import stage
from membench.layers.layer import Routing, Touched, torch_dtype
from membench.layers.operators.operator import Operator, imposed
from membench.layers.routing import StatedRouting
from membench.layers.spec import ExpertRowsSpec, RowOperatorSpec, WeightedBagSpec
from membench.layers.tables.value_table import ValueTable
from membench.layers.touched import touched_rows


class RowOperator(Operator):
    """Reads tables of N rows. Path ``plain`` makes them parameters with an ordinary, dense gradient."""

    spec: RowOperatorSpec

    def table_of(self, generator: torch.Generator | None) -> ValueTable:
        """A new table of random rows of unit length on average."""
        spec, std = self.spec, 1 / math.sqrt(self.spec.model_dim)
        shape, dtype = (spec.num_keys, spec.model_dim), torch_dtype(spec.dtype)
        table = ValueTable(*shape, dtype=dtype, device=self.device, std=std, generator=generator)
        table.weight.requires_grad_(spec.path == "plain")
        return table

    def tables(self) -> tuple[ValueTable, ...]:
        return () if self.spec.path == "plain" else self._tables()

    @property
    def random_rows(self) -> Tensor:
        return self._tables()[0].weight.detach()

    def _tables(self) -> tuple[ValueTable, ...]:
        return tuple(module for module in self.children() if isinstance(module, ValueTable))

    def draw_input(
        self, tokens: int, stated: StatedRouting, generator: torch.Generator
    ) -> tuple[Tensor, Routing | None]:
        x, routing = super().draw_input(tokens, stated, generator)
        # torch.topk, which a plain composition has its rows from, gives int64
        if routing is None or routing.selected is None or self.spec.path == "plain":
            return x, routing
        return x, replace(routing, selected=routing.selected.to(index_dtype(self.spec.num_keys)))

    def touched(self, x: Tensor, routing: Routing | None) -> Touched:
        return touched_rows(self, x, routing)

    def draw_weights(self, tokens: int, generator: torch.Generator) -> Tensor:
        """(B, H, k) fp32: softmax weights of each head's rows."""
        shape = (tokens, self.spec.heads, self.spec.top_k)
        return torch.randn(shape, dtype=torch.float32, device=self.device, generator=generator).softmax(dim=-1)


class WeightedBag(RowOperator):
    """y (B, D) = the sum over L of weights times rows of ``table``; x (B, H, k) fp32 are the weights."""

    spec: WeightedBagSpec

    def __init__(
        self,
        spec: WeightedBagSpec,
        ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device)
        self.table = self.table_of(generator)

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return self.draw_weights(tokens, generator), None

    def output_like(self, x: Tensor) -> Tensor:
        return self.table.weight.new_empty(x.shape[0], self.spec.model_dim)

    def operate(self, x: Tensor, routing: Routing | None) -> Tensor:
        with stage("bag"):
            return self.table.bag(Lookups(_rows(routing), self.spec.num_keys), x.flatten(1))

    def plain(self, x: Tensor, routing: Routing | None) -> Tensor:
        weight, scores = self.table.weight, x.flatten(1)
        with stage("bag"):
            return functional.embedding_bag(
                _rows(routing), weight, mode="sum", per_sample_weights=scores.to(weight.dtype)
            )


class ExpertRows(RowOperator):
    """y (B, d) = the sum over L of weight · gelu(u·x) · v, u the rows of ``down`` and v those of ``up``."""

    spec: ExpertRowsSpec

    def __init__(
        self,
        spec: ExpertRowsSpec,
        ranks: int = 1,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec, ranks, device)
        self.down, self.up = self.table_of(generator), self.table_of(generator)

    def draw(self, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x = torch.randn(tokens, self.spec.model_dim, dtype=torch.float32, device=self.device, generator=generator)
        return x.to(torch_dtype(self.spec.dtype)), self.draw_weights(tokens, generator)

    def operate(self, x: Tensor, routing: Routing | None) -> Tensor:
        rows, weights = imposed(routing)
        lookups = Lookups(rows.flatten(1), self.spec.num_keys)
        with stage("experts"):
            hidden = functional.gelu(self.down.dots(lookups, x))
            return self.up.bag(lookups, weights.flatten(1) * hidden)

    def plain(self, x: Tensor, routing: Routing | None) -> Tensor:
        rows, weights = (each.flatten(1) for each in imposed(routing))
        with stage("experts"):
            hidden = torch.einsum("bld,bd->bl", functional.embedding(rows, self.down.weight), x)
            activated = functional.gelu(hidden) * weights.to(x.dtype)
            return torch.einsum("bl,bld->bd", activated, functional.embedding(rows, self.up.weight))


def _rows(routing: Routing | None) -> Tensor:
    """(B, L): the imposed rows of a bag, whose weights are its x."""
    if routing is None or routing.selected is None:
        raise ValueError("an operator chooses nothing itself: routing needs selected")
    return routing.selected.flatten(1)
