"""The float64 reference of each kind of layer on a few of its tokens.

Letters: B tokens, T of them sampled, P ranks, E experts, K experts a token, H heads, k rows a head.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from membench.layers.checking import reference
from membench.layers.checking.sampled_reference import SampledReference, float64_leaf, kth_best_sum, shortfall
from membench.layers.dense import Dense
from membench.layers.layer import RemoteAssignments, RemoteLookups
from membench.layers.memory import Memory
from membench.layers.moe import MoE
from membench.layers.peer import Peer
from membench.layers.product_keys import RetrievalLayer
from membench.layers.tables.quantized_table import AnyTable, exact_rows, tables_of


class DenseReference(SampledReference):
    """Every token touches all parameters."""

    layer: Dense

    def leaves(self) -> dict[str, Tensor]:
        found = super().leaves()
        if self.layer.cut is None:
            return found
        gate, up, down = (found[f"cut.{name}.weight"].detach() for name in ("gate", "up", "down"))
        return {"gate_up": float64_leaf(torch.cat([gate, up])), "down": float64_leaf(down)}

    def _gradient(self, name: str) -> Tensor:
        if self.layer.cut is None:
            return super()._gradient(name)
        parts = {"gate_up": ("gate", "up"), "down": ("down",)}[name]
        return torch.cat([super(DenseReference, self)._gradient(f"cut.{part}.weight") for part in parts])

    def output(self) -> Tensor:
        return reference.dense(self.layer.spec, self.w, self.x)


class MoEReference(SampledReference):
    """A mixture: leaves for the experts that compute a sampled token."""

    IN_PARTS: ClassVar = ("expert_gate_up", "expert_down")

    layer: MoE

    def output(self) -> Tensor:
        spec = self.layer.spec
        if spec.choice == "expert":
            taken = self._sampled_tokens_of_experts()
            weights = self._with_experts([e for e, tokens in enumerate(taken) if len(tokens)])
            return reference.moe_expert_choice(spec, weights, self.x, taken)
        computed_by = self._computed_by()
        weights = self._with_experts(computed_by.unique().tolist())
        return reference.moe_token_choice(spec, weights, self.x, self.chosen, computed_by)

    def _sampled_tokens_of_experts(self) -> list[Tensor]:
        """Per expert, the positions within the sample of the sampled tokens that it takes."""
        assert self.selection is not None
        position = torch.full((self.batch,), -1, device=self.sample.device)
        position[self.sample] = torch.arange(len(self.sample), device=self.sample.device)
        return [row[row >= 0] for row in position[self.selection.indices]]

    def _computed_by(self) -> Tensor:
        """(T, K) the experts, by index on this rank, that compute each sampled token."""
        remote = self.routing.remote
        if isinstance(remote, RemoteAssignments):
            experts = torch.arange(len(remote.counts), device=remote.counts.device)
            expert_of_row = torch.repeat_interleave(experts, remote.counts)
            slots = torch.arange(self.layer.spec.top_k, device=self.sample.device)
            return expert_of_row[self.sample[:, None] + self.batch * slots]
        return self.in_force

    def _with_experts(self, touched: Collection[int]) -> dict[str, object]:
        """The weights by name; of the experts' a mapping from expert to leaf."""
        self.touched = set(touched)
        parameters, order = dict(self.layer.named_parameters()), sorted(self.touched)  # the same on all ranks
        slices = {
            name: {e: float64_leaf(self.whole_expert(parameters[name].detach(), e)) for e in order}
            for name in self.IN_PARTS
        }
        weights: dict[str, object] = {**self.w, **slices}
        self.w |= {f"{name}[{e}]": leaf for name, leaves in slices.items() for e, leaf in leaves.items()}
        return weights

    def _parameter(self, name: str) -> str:
        return name.partition("[")[0]

    def _gradient(self, name: str) -> Tensor:
        parameter, _, expert = name.partition("[")
        whole = super()._gradient(parameter)
        return self.whole_expert(whole, int(expert.removesuffix("]"))) if expert else whole

    def _strays(self) -> list[str]:
        first, _ = self.layer.exchange.experts_held(self.layer.spec.num_experts)

        def stray(name: str) -> bool:
            gradient = super(MoEReference, self)._gradient(name)
            return any(bool(own.count_nonzero()) for e, own in enumerate(gradient, first) if e not in self.touched)

        return [name for name in self.IN_PARTS if stray(name)]

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        spec, bias = self.layer.spec, self.layer.expert_bias
        if spec.choice == "expert":  # every expert looks at all tokens
            assert self.selection is not None
            scores, chosen = reference.router_scores(spec, self.w, x.double()).T, self.selection.indices.long()
        else:
            scores, chosen = reference.router_scores(spec, self.w, self.x), self.chosen
            scores = scores if bias is None else scores + bias.double()
        best = scores.topk(chosen.shape[-1], dim=-1).values[..., -1:]
        return shortfall(chosen, scores.gather(-1, chosen), best)


class RowsReference(SampledReference):
    """A layer that looks up rows: leaves for the table rows that a sampled token's output depends on.

    ``pool`` is given where other layers read the same table: its rows that any of them touches, and their one leaf,
    which is then none of this layer's.
    """

    layer: RetrievalLayer

    def __init__(self, *given: Any, pool: tuple[Tensor, Tensor] | None = None, **named: Any) -> None:
        self.pool = pool
        super().__init__(*given, **named)

    def leaves(self) -> dict[str, Tensor]:
        """Of all but the tables, and of those the rows that are read, by tokens of other ranks too."""
        self.tables = tables_of(self.layer)
        self.groups = [self.in_force, *(lookups.indices[at].long() for lookups, at in self.places())]
        if self.pool is not None:
            self.touched = self.pool[0]
            return super().leaves()
        self.touched = torch.cat([group.flatten() for group in self.groups]).unique()
        rows = {
            name: float64_leaf(self.whole_rows(partial(exact_rows, table), self.touched, self.layer.spec.num_keys))
            for name, table in self.tables.items()
        }
        return super().leaves() | rows

    def places(self) -> list[tuple[RemoteLookups, Tensor]]:
        """Each other rank's lookups, and where among them those are that stand in for a sampled token's columns."""
        lookups = self.routing.remote
        if not isinstance(lookups, RemoteLookups):
            return []
        # rank r's columns of token t stand for the lookups of that rank's token t
        return [(lookups, self.sample + rank * self.batch) for rank in range(self.layer.ranks - 1)]

    def rows_and_weights(self) -> dict[str, Tensor]:
        """The weights by name, tables as the rows of them that are touched."""
        return self.w if self.pool is None else {**self.w, "table": self.pool[1]}

    def local_rows(self) -> list[Tensor]:
        """Per rank, this one first, the rows (T, H, k) by index into a table's leaf."""
        return [torch.searchsorted(self.touched, group) for group in self.groups]

    def _parameter(self, name: str) -> str:
        return f"{name}.weight" if name in self.tables else name

    def _gradient(self, name: str) -> Tensor:
        return self.row_gradient(name) if name in self.tables else super()._gradient(name)

    def row_gradient(self, name: str) -> Tensor:
        """The layer's gradient of the rows of a table that are touched."""
        gradient, columns = self.tables[name].gradient, self.tables[name].weight.shape[1]

        def of_held(touched: Tensor) -> Tensor:
            if gradient is None or not len(gradient.rows):
                return self.x.new_full((len(touched), columns), math.nan)
            held = touched.to(gradient.rows)  # of a table in host memory, the gradient is there too
            at = torch.searchsorted(gradient.rows, held).clamp(max=len(gradient.rows) - 1)
            missing = gradient.rows[at] != held
            return gradient.values[at].masked_fill(missing[:, None], math.nan).to(touched.device)

        return self.whole_rows(of_held, self.touched, self.layer.spec.num_keys)

    def _strays(self) -> list[str]:
        first, _ = self.layer.exchange.rows_held(self.layer.spec.num_keys)

        def stray(table: AnyTable) -> bool:
            if table.gradient is None:
                return False
            others = ~torch.isin(table.gradient.rows + first, self.touched.to(table.gradient.rows))
            return bool(table.gradient.values[others].count_nonzero())

        return [f"{name}.weight" for name, table in self.tables.items() if stray(table)]

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        del x
        spec, chosen = self.layer.spec, self.chosen
        first, second = reference.half_scores(spec, self.w, self.x)
        values = first.gather(-1, chosen // spec.sub_keys) + second.gather(-1, chosen % spec.sub_keys)
        return shortfall(chosen, values, kth_best_sum(first, second, spec.top_k))


class MemoryReference(RowsReference):
    """Value rows, summed with their weights."""

    layer: Memory

    def output(self) -> Tensor:
        local, *others = self.local_rows()
        remote = [
            (rows, lookups.weights[at].double()) for rows, (lookups, at) in zip(others, self.places(), strict=True)
        ]
        return reference.memory(self.layer.spec, self.rows_and_weights(), self.x, self.chosen, local, remote)


class PeerReference(RowsReference):
    """Experts of one neuron."""

    layer: Peer

    def output(self) -> Tensor:
        local, *others = self.local_rows()
        remote: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows, (lookups, at) in zip(others, self.places(), strict=True):
            assert lookups.columns is not None
            remote.append((rows, lookups.weights[at].double(), lookups.columns[at].double()))
        return reference.peer(self.layer.spec, self.w, self.x, self.chosen, local, remote, self._products())

    def _products(self) -> list[Tensor]:
        """Per rank, this one first, what other columns add to u·x."""
        lookups = self.routing.remote
        if not isinstance(lookups, RemoteLookups):
            return []
        assert lookups.products is not None
        return [lookups.products[self.sample + rank * self.batch].double() for rank in range(self.layer.ranks)]
