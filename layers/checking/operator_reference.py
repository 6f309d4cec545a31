"""The float64 reference of an operator on a few of its tokens.

Letters: B tokens, T of them sampled, H heads, k rows a head, K experts a token, n sub-keys a half.
"""

import math

import torch
from torch import Tensor

from membench.layers.checking import reference
from membench.layers.checking.sampled_reference import SampledReference, float64_leaf, kth_best_sum, shortfall
from membench.layers.layer import Routing, Selection
from membench.layers.operators.experts import GroupedExperts
from membench.layers.operators.operator import Operator
from membench.layers.operators.retrieval import KeyScores, ProductKeyTopK
from membench.layers.operators.rows import ExpertRows, RowOperator, WeightedBag
from membench.layers.tables.value_table import ValueTable

_WEIGHTS = "weights"  # of what is imposed: a leaf that is no parameter


def operator_reference(
    operator: Operator, x: Tensor, sample: Tensor, selection: Selection | None, routing: Routing | None
) -> SampledReference:
    """The reference on x[sample]; ``routing`` is that of the compared pass, whose weights have the gradient.

    Raises:
        ValueError: this operator has no reference.
    """
    match operator:
        case RowOperator() | GroupedExperts():
            assert routing is not None
            return _Imposed(operator, x, sample, routing)
        case ProductKeyTopK():
            assert selection is not None
            return _TopK(operator, x, sample, selection)
        case KeyScores():
            return _KeyScores(operator, x, sample)
    raise ValueError(f"no reference for operator {type(operator).__name__}")


class _Imposed(SampledReference):
    """Of imposed rows or experts: leaves for just those, along a parameter's first dimension."""

    def __init__(self, operator: Operator, x: Tensor, sample: Tensor, routing: Routing) -> None:
        assert routing.selected is not None
        selected = routing.selected[sample].long()
        self.routing, self.touched = routing, selected.unique()
        self.local = torch.searchsorted(self.touched, selected)
        super().__init__(operator, x, sample)

    def _leaves(self) -> dict[str, Tensor]:
        leaves = {name: float64_leaf(p[self.touched]) for name, p in self.layer.named_parameters()}
        if self.routing.weights is not None:
            leaves[_WEIGHTS] = float64_leaf(self.routing.weights[self.sample])
        return leaves

    def _output(self) -> Tensor:
        w = self.w
        match self.layer:
            case WeightedBag():
                return reference.weighted_bag(self.x, w["table.weight"], self.local)
            case ExpertRows():
                tables = {"down": w["down.weight"], "up": w["up.weight"]}
                return reference.expert_rows(tables, self.x, w[_WEIGHTS], self.local)
            case _:  # unbound: the gradient of one expert out of a stack would be as large as the stack
                experts = {name: w[name].unbind() for name in ("expert_gate_up", "expert_down")}
                return reference.swiglu_experts(experts, self.x, w[_WEIGHTS], self.local)

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


class _KeyScores(SampledReference):
    """All keys are touched."""

    def _output(self) -> Tensor:
        return reference.key_scores(self.x, self.w["keys"])


class _TopK(SampledReference):
    """The softmax of the sums that the operator chose; whether it chose right is told by the shortfall."""

    def __init__(self, operator: ProductKeyTopK, x: Tensor, sample: Tensor, selection: Selection) -> None:
        self.chosen, self.spec = selection.indices[sample].long(), operator.spec
        super().__init__(operator, x, sample)

    def _output(self) -> Tensor:
        return torch.softmax(self._sums(self.x), dim=-1)

    def _sums(self, x: Tensor) -> Tensor:
        """(T, H, k): the chosen sums of both halves' scores."""
        n = self.spec.sub_keys
        return x[:, :, 0].gather(-1, self.chosen // n) + x[:, :, 1].gather(-1, self.chosen % n)

    @torch.no_grad()
    def selection_shortfall(self, x: Tensor) -> float | None:
        del x
        first, second = self.x.unbind(2)
        return shortfall(self.chosen, self._sums(self.x), kth_best_sum(first, second, self.spec.top_k))
