"""The float64 reference of each operator on a few of its tokens.

Letters: B tokens, T of them sampled, H heads, k rows a head, K experts a token, n sub-keys a half.
"""

import math

import torch
from torch import Tensor

from membench.layers.checking import reference
from membench.layers.checking.sampled_reference import SampledReference, float64_leaf, kth_best_sum, shortfall
from membench.layers.operators.retrieval import ProductKeyTopK
from membench.layers.tables.value_table import ValueTable

_WEIGHTS = "weights"  # of what is imposed: a leaf that is no parameter


class ImposedReference(SampledReference):
    """Of imposed rows or experts: leaves for just those, along a parameter's first dimension."""

    def leaves(self) -> dict[str, Tensor]:
        assert self.routing.selected is not None
        selected = self.routing.selected[self.sample].long()
        self.touched = selected.unique()
        self.local = torch.searchsorted(self.touched, selected)
        leaves = {name: float64_leaf(p[self.touched]) for name, p in self.layer.named_parameters()}
        if self.routing.weights is not None:
            leaves[_WEIGHTS] = float64_leaf(self.routing.weights[self.sample])
        return leaves

    def _gradient(self, name: str) -> Tensor:
        if name == _WEIGHTS:
            assert self.routing.weights is not None and self.routing.weights.grad is not None
            return self.routing.weights.grad[self.sample]
        rows, values = self._rows_with_gradient(name)
        if rows is None:
            return values[self.touched]
        at = torch.searchsorted(rows, self.touched.to(rows.dtype)).clamp(max=len(rows) - 1)
        return values[at].masked_fill((rows[at] != self.touched)[:, None], math.nan)

    def _rows_with_gradient(self, name: str) -> tuple[Tensor | None, Tensor]:
        """Which rows have a gradient (None: all), and those."""
        table = self.layer.get_submodule(name.rpartition(".")[0])
        if isinstance(table, ValueTable) and table.gradient is not None:
            return table.gradient.rows, table.gradient.values
        return None, super()._gradient(name)

    def _strays(self) -> list[str]:
        def stray(name: str) -> bool:
            nonzero = self._rows_with_gradient(name)[1].count_nonzero()
            return bool(nonzero > self._gradient(name).count_nonzero())

        return [name for name in self.w if name != _WEIGHTS and stray(name)]


class WeightedBagReference(ImposedReference):
    """The weights of the rows are its x."""

    def output(self) -> Tensor:
        return reference.weighted_bag(self.x, self.w["table.weight"], self.local)


class ExpertRowsReference(ImposedReference):
    """Experts of one neuron."""

    def output(self) -> Tensor:
        tables = {"down": self.w["down.weight"], "up": self.w["up.weight"]}
        return reference.expert_rows(tables, self.x, self.w[_WEIGHTS], self.local)


class GroupedExpertsReference(ImposedReference):
    """SwiGLU experts."""

    def output(self) -> Tensor:
        # unbound: the gradient of one expert out of a stack would be as large as the stack
        experts = {name: self.w[name].unbind() for name in ("expert_gate_up", "expert_down")}
        return reference.swiglu_experts(experts, self.x, self.w[_WEIGHTS], self.local)


class KeyScoresReference(SampledReference):
    """All keys are touched."""

    def output(self) -> Tensor:
        return reference.key_scores(self.x, self.w["keys"])


class ProductKeyTopKReference(SampledReference):
    """The softmax of the sums that the operator chose; whether it chose right is told by the shortfall."""

    layer: ProductKeyTopK

    def output(self) -> Tensor:
        return torch.softmax(self._sums(self.x), dim=-1)

    def _sums(self, x: Tensor) -> Tensor:
        """(T, H, k): the chosen sums of both halves' scores."""
        n, chosen = self.layer.spec.sub_keys, self.chosen
        return x[:, :, 0].gather(-1, chosen // n) + x[:, :, 1].gather(-1, chosen % n)

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        del x
        first, second = self.x.unbind(2)
        return shortfall(self.chosen, self._sums(self.x), kth_best_sum(first, second, self.layer.spec.top_k))
