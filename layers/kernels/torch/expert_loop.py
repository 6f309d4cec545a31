"""SwiGLU experts one after the other, or many small ones at the same time: how a CPU computes them.

Other devices can run this too, but their host then waits for the row counts.

Letters: B tokens, E experts, R rows, d model dim, f hidden width of an expert.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from membench.layers.kernels.dispatch import Dispatch
from membench.layers.kernels.expert_operands import Gradients, Operands
from membench.layers.kernels.matmul import linear_gradients, linear_into
from membench.layers.kernels.swiglu import activate, activate_backward
from membench.layers.kernels.workers import for_each

# Reading an expert's weights costs about as much as multiplying so many rows by them.
_ROWS_WORTH_OF_WEIGHTS = 32
_BUNDLES_PER_THREAD = 4  # 2 to 32 take the same time


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Neighbouring experts with rows, done by one thread: ``groups`` of (expert, start, stop)."""

    groups: list[tuple[int, int, int]]

    @property
    def rows(self) -> slice:
        return slice(self.groups[0][1], self.groups[-1][2])

    def local(self) -> list[tuple[int, slice]]:
        """Each expert with its rows, counted from the bundle's first."""
        first = self.groups[0][1]
        return [(expert, slice(start - first, stop - first)) for expert, start, stop in self.groups]


def _bundles(dispatch: Dispatch) -> tuple[list[_Bundle], list[_Bundle], list[int]]:
    """Experts worth all threads each; bundles of others, each worth one thread; experts without rows.

    Bundles need fewer Python calls: elementwise work is one operator per bundle. With several bundles per thread all
    threads finish at about the same time, and a bundle's rows still fit into a core's cache.
    """
    ends = dispatch.ends.tolist()
    groups = [(expert, start, stop) for expert, (start, stop) in enumerate(zip([0, *ends], ends, strict=False))]
    empty = [expert for expert, start, stop in groups if start == stop]
    groups = [group for group in groups if group[1] < group[2]]
    if dispatch.token.device.type != "cpu":
        return [_Bundle([group]) for group in groups], [], empty
    threads = torch.get_num_threads()
    share = sum(map(_cost, groups)) / threads
    heavy, light, filled = [], [], share
    for group in groups:
        if _cost(group) > share / 2:  # on one thread it could take so long that all others wait for it
            heavy.append(_Bundle([group]))
            filled = share  # rows of a bundle are neighbours, so the next one begins another
            continue
        if filled + _cost(group) > share / _BUNDLES_PER_THREAD:
            light.append(_Bundle([]))
            filled = 0
        light[-1].groups.append(group)
        filled += _cost(group)
    return heavy, light, empty


def _cost(group: tuple[int, int, int]) -> int:
    _, start, stop = group
    return stop - start + _ROWS_WORTH_OF_WEIGHTS


def forward(of: Operands, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Pre-activation (R, 2f), or (0, 2f) if not to ``keep``, and the experts' results (R, d).

    Expert by expert, a bundle at a time: its rows stay in a core's cache from product to product.
    """
    token = of.dispatch.token
    pre = of.x.new_empty(len(token) if keep else 0, of.gate_up.shape[1])
    results = of.x.new_empty(len(token), of.x.shape[1])

    def of_bundle(bundle: _Bundle) -> None:
        x = of.x.index_select(0, token[bundle.rows])
        here = pre[bundle.rows] if keep else x.new_empty(len(x), pre.shape[1])
        for expert, rows in bundle.local():
            linear_into(here[rows], x[rows], of.gate_up[expert])
        hidden, result = activate(here), results[bundle.rows]
        for expert, rows in bundle.local():
            linear_into(result[rows], hidden[rows], of.down[expert])

    heavy, light, _ = _bundles(of.dispatch)
    for bundle in heavy:
        of_bundle(bundle)
    for_each(of_bundle, light)
    return pre, results


def backward(of: Operands, pre: Tensor, y_gradient: Tensor, *, of_x: bool, of_experts: bool) -> Gradients:
    """The gradients that are asked for, given those of the tokens' sums (B, d)."""
    token = of.dispatch.token
    weight = torch.empty_like(of.weight, dtype=torch.promote_types(of.weight.dtype, torch.float32))
    rows_gradient = of.x.new_empty(len(token), of.x.shape[1]) if of_x else None
    gate_up, down = (torch.empty_like(of.gate_up), torch.empty_like(of.down)) if of_experts else (None, None)

    def of_bundle(bundle: _Bundle) -> None:
        """Writes the bundle's part of every gradient; bundles share no expert and no row."""
        here, local = token[bundle.rows], bundle.local()
        upstream = y_gradient.index_select(0, here)
        hidden_gradient = torch.empty(len(here), of.down.shape[2], dtype=of.x.dtype, device=of.x.device)
        for expert, rows in local:
            linear_into(hidden_gradient[rows], upstream[rows], of.down[expert].t())
        hidden, pre_gradient, weight_gradient = activate_backward(
            pre[bundle.rows], hidden_gradient, of.weight[bundle.rows]
        )
        assert weight_gradient is not None
        weight[bundle.rows] = weight_gradient
        x = of.x.index_select(0, here) if of_experts else None
        x_gradient = None if rows_gradient is None else rows_gradient[bundle.rows]
        for expert, rows in local:
            if down is not None:
                linear_gradients(upstream[rows], hidden[rows], out=down[expert])
            if x_gradient is not None:
                linear_into(x_gradient[rows], pre_gradient[rows], of.gate_up[expert].t())
            if gate_up is not None and x is not None:
                linear_gradients(pre_gradient[rows], x[rows], out=gate_up[expert])

    heavy, light, empty = _bundles(of.dispatch)
    for bundle in heavy:
        of_bundle(bundle)
    for_each(of_bundle, light)
    for gradient in (gate_up, down):
        if gradient is not None:
            for expert in empty:
                gradient[expert].zero_()
    return Gradients(rows_gradient, gate_up, down, weight)
