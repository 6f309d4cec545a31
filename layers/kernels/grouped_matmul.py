"""SwiGLU experts over rows sorted by expert: gather, three products an expert, weigh, combine.

One autograd function, because most of what autograd would keep need not exist. The gradient of
a row's weight is y' · (W_down h) = (W_down^T y') · h: f products of what the backward has at
hand anyway, so the results (R, d) are not kept, only x and the pre-activation (R, 2f).

Letters: B tokens, E experts, R rows, d model dim, f hidden width of an expert.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layers.kernels.dispatch import Dispatch, combine
from layers.kernels.matmul import linear_gradients, linear_into
from layers.kernels.stages import stage
from layers.kernels.swiglu import activate, activate_backward
from layers.kernels.workers import for_each

# Reading an expert's weights costs about as much as multiplying so many rows by them.
_ROWS_WORTH_OF_WEIGHTS = 32
_BUNDLES_PER_THREAD = 4  # 2 to 32 take the same time


@dataclass(slots=True)
class _Operands:
    """What forward and backward share. ``weight`` (R,) is in the dtype of x."""

    x: Tensor  # (B, d)
    gate_up: Tensor  # (E, 2f, d)
    down: Tensor  # (E, d, f)
    weight: Tensor  # (R,)
    dispatch: Dispatch


@dataclass(slots=True)
class _Gradients:
    """Of the gathered rows (R, d), of the experts' weights, and of the rows' weights (R,) in fp32."""

    rows: Tensor
    gate_up: Tensor
    down: Tensor
    weight: Tensor


def experts(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, dispatch: Dispatch) -> Tensor:
    """(B, d): each token's weighted sum over the experts that ``dispatch`` sends it to.

    Args:
        x: (B, d) tokens.
        gate_up, down: (E, 2f, d), gate first, and (E, d, f).
        weight: (R,) fp32, of the rows of ``dispatch``.
    """
    return _Experts.apply(x, gate_up, down, weight, dispatch, torch.is_grad_enabled())


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, dispatch: Dispatch, keep: bool
    ) -> Tensor:
        operands = _Operands(x, gate_up, down, weight.to(x.dtype), dispatch)
        ctx.grouped = _has_grouped_products(gate_up)
        pre, rows = _grouped_forward(operands) if ctx.grouped else _looped_forward(operands, keep=keep)
        ctx.dispatch = dispatch
        ctx.save_for_backward(x, gate_up, down, operands.weight, pre)
        with stage("combine"):
            return combine(rows, dispatch, operands.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, weight, pre = ctx.saved_tensors
        operands = _Operands(x, gate_up, down, weight, ctx.dispatch)
        backward = _grouped_backward if ctx.grouped else _looped_backward
        of = backward(operands, pre, gradients[0].contiguous())
        with stage("combine"):
            x_gradient = combine(of.rows, ctx.dispatch)
        return x_gradient, of.gate_up, of.down, of.weight, None, None


def _has_grouped_products(gate_up: Tensor) -> bool:
    """Whether one launch for all experts is to be had: bf16 on Hopper or later, rows of 16-byte multiples.

    Elsewhere ``grouped_mm`` is a loop that asks the host for the row counts.
    """
    if gate_up.device.type != "cuda" or gate_up.dtype != torch.bfloat16:
        return False
    _, two_f, d = gate_up.shape
    return torch.cuda.get_device_capability(gate_up.device) >= (9, 0) and d % 8 == 0 and two_f % 16 == 0


def _grouped_forward(of: _Operands) -> tuple[Tensor, Tensor]:
    pre = F.grouped_mm(of.x.index_select(0, of.dispatch.token), of.gate_up.mT, offs=of.dispatch.ends)
    return pre, F.grouped_mm(activate(pre), of.down.mT, offs=of.dispatch.ends)


def _grouped_backward(of: _Operands, pre: Tensor, y_gradient: Tensor) -> _Gradients:
    token, ends = of.dispatch.token, of.dispatch.ends
    gathered = y_gradient.index_select(0, token)
    hidden, pre_gradient, weight_gradient = activate_backward(
        pre, F.grouped_mm(gathered, of.down, offs=ends), of.weight
    )
    assert weight_gradient is not None
    down_gradient = F.grouped_mm(gathered.t(), hidden, offs=ends)
    gate_up_gradient = F.grouped_mm(pre_gradient.t(), of.x.index_select(0, token), offs=ends)
    if torch.cuda.get_device_capability(token.device) >= (10, 0):
        # Blackwell leaves the product of an empty group unwritten (pytorch issue 172439).
        empty = torch.diff(ends, prepend=ends.new_zeros(1)) == 0
        down_gradient.masked_fill_(empty[:, None, None], 0)
        gate_up_gradient.masked_fill_(empty[:, None, None], 0)
    return _Gradients(
        rows=F.grouped_mm(pre_gradient, of.gate_up, offs=ends),
        gate_up=gate_up_gradient,
        down=down_gradient,
        weight=weight_gradient,
    )


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

    Bundles keep the interpreter out of the way: what is elementwise is one operator a bundle.
    Some a thread even out, and their rows still fit a core's cache.
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
        if _cost(group) > share / 2:  # on one thread it could be what all others wait for
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


def _looped_forward(of: _Operands, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Expert by expert, a bundle at a time: its rows stay in a core's cache from product to product.

    Without ``keep`` no backward will want the pre-activation, and it is not written to memory.
    """
    token = of.dispatch.token
    pre = of.x.new_empty(len(token) if keep else 0, of.gate_up.shape[1])
    results = of.x.new_empty(len(token), of.x.shape[1])

    def forward(bundle: _Bundle) -> None:
        x = of.x.index_select(0, token[bundle.rows])
        here = pre[bundle.rows] if keep else x.new_empty(len(x), pre.shape[1])
        for expert, rows in bundle.local():
            linear_into(here[rows], x[rows], of.gate_up[expert])
        hidden, result = activate(here), results[bundle.rows]
        for expert, rows in bundle.local():
            linear_into(result[rows], hidden[rows], of.down[expert])

    heavy, light, _ = _bundles(of.dispatch)
    for bundle in heavy:
        forward(bundle)
    for_each(forward, light)
    return pre, results


def _looped_backward(of: _Operands, pre: Tensor, y_gradient: Tensor) -> _Gradients:
    token = of.dispatch.token
    result = _Gradients(
        rows=of.x.new_empty(len(token), of.x.shape[1]),
        gate_up=torch.empty_like(of.gate_up),
        down=torch.empty_like(of.down),
        weight=torch.empty_like(of.weight, dtype=torch.float32),
    )

    def backward(bundle: _Bundle) -> None:
        here, local = token[bundle.rows], bundle.local()
        x, upstream, x_gradient = of.x.index_select(0, here), y_gradient.index_select(0, here), result.rows[bundle.rows]
        hidden_gradient = torch.empty(len(here), of.down.shape[2], dtype=x.dtype, device=x.device)
        for expert, rows in local:
            linear_into(hidden_gradient[rows], upstream[rows], of.down[expert].t())
        hidden, pre_gradient, weight_gradient = activate_backward(
            pre[bundle.rows], hidden_gradient, of.weight[bundle.rows]
        )
        assert weight_gradient is not None
        result.weight[bundle.rows] = weight_gradient
        for expert, rows in local:
            linear_gradients(upstream[rows], hidden[rows], out=result.down[expert])
            linear_into(x_gradient[rows], pre_gradient[rows], of.gate_up[expert].t())
            linear_gradients(pre_gradient[rows], x[rows], out=result.gate_up[expert])

    heavy, light, empty = _bundles(of.dispatch)
    for bundle in heavy:
        backward(bundle)
    for_each(backward, light)
    for expert in empty:
        result.gate_up[expert].zero_()
        result.down[expert].zero_()
    return result
