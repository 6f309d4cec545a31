"""Row updates by torch's own calls: the rules of ``layers.kernels.row_update``, a part of the rows at a time.

Letters: N rows, D columns, U rows updated.
"""

from itertools import repeat

import torch
from torch import Tensor

from membench.layers.kernels.row_update import RowState, RowStep, random_bits

_ELEMENTS_A_PART = 2**18  # a few temporaries of so many fp32 stay in a core's cache


def update_rows_(
    table: Tensor, state: RowState, rows: Tensor, gradient: Tensor, step: RowStep, squares: Tensor | None = None
) -> None:
    """Updates ``table[rows]`` by ``gradient`` (U, D); ``rows`` are distinct.

    ``squares`` (U,) are the means of its squares; None: those of these columns.
    """
    step = step.read()
    part = max(1, _ELEMENTS_A_PART // max(1, table.shape[1])) if table.device.type == "cpu" else max(1, len(rows))
    means = squares.split(part) if squares is not None else repeat(None)
    for at, of, mean in zip(rows.long().split(part), gradient.split(part), means, strict=False):
        values, change = table[at].float(), of.float()
        decay = 1 - step.learning_rate * step.weight_decay
        match step.optimizer:
            case "sgd":
                pass
            case "row_adagrad":
                change = _adagrad(state, at, change, _mean_square(change, mean), step)
            case "row_adam":
                change = _row_adam(state, at, change, _mean_square(change, mean), step)
            case "lazy_adam":
                change, decay = _lazy_adam(state, at, change, step, decay)
        values = values * decay - step.learning_rate * change
        table.index_copy_(0, at, _rounded(values, at, table, step))


def _mean_square(change: Tensor, known: Tensor | None) -> Tensor:
    return change.square().mean(dim=1) if known is None else known


def _adagrad(state: RowState, rows: Tensor, change: Tensor, square: Tensor, step: RowStep) -> Tensor:
    assert state.sums is not None
    sums = state.sums[rows] + square
    state.sums[rows] = sums
    return change / (sums.sqrt() + step.eps)[:, None]


def _row_adam(state: RowState, rows: Tensor, change: Tensor, square: Tensor, step: RowStep) -> Tensor:
    assert state.first is not None and state.second is not None
    first = torch.lerp(state.first[rows], change, 1 - step.beta1)
    second = torch.lerp(state.second[rows], square, 1 - step.beta2)
    state.first[rows], state.second[rows] = first, second
    corrected = (second / (1 - step.beta2**step.number)).sqrt() + step.eps
    return first / (1 - step.beta1**step.number) / corrected[:, None]


def _lazy_adam(state: RowState, rows: Tensor, change: Tensor, step: RowStep, decay: float) -> tuple[Tensor, Tensor]:
    """The change of the row, and the decay factor of its weights: one decay for every step since its last update."""
    assert state.first is not None and state.second is not None and state.stamps is not None
    gap = (step.number - state.stamps[rows]).double()[:, None]  # a power increases its base's rounding error
    decay1, decay2, decays = ((base**gap).float() for base in (step.beta1, step.beta2, decay))
    first = decay1 * state.first[rows] + (1 - step.beta1) * change
    second = decay2 * state.second[rows] + (1 - step.beta2) * change.square()
    state.first[rows], state.second[rows] = first, second
    state.stamps[rows] = step.number
    corrected = (second / (1 - step.beta2**step.number)).sqrt() + step.eps
    return first / (1 - step.beta1**step.number) / corrected, decays


def _rounded(values: Tensor, rows: Tensor, table: Tensor, step: RowStep) -> Tensor:
    """The values in the table's dtype. A bf16 is the upper half of an fp32: random bits added below round it."""
    if step.seed is None or table.dtype != torch.bfloat16:
        return values.to(table.dtype)
    bits = values.contiguous().view(torch.int32).long() & 0xFFFFFFFF
    cut = (bits + random_bits(rows, table.shape[1], step.seed)) >> 16
    # an int16 holds the same 16 bits as a signed number
    rounded = torch.where(cut >= 2**15, cut - 2**16, cut).to(torch.int16).view(torch.bfloat16)
    return torch.where(values.isfinite(), rounded, values.to(torch.bfloat16))
