"""Row passes in C++: every row that a batch reads is fetched from memory once, before it is needed.

Shapes and meaning: ``layers.kernels.row_passes``. Tokens have the table's dtype.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.lookups import Runs
from membench.layers.kernels.native.bags import bags, computable
from membench.layers.kernels.native.calls import ELEMENTS, call, check_rows, pointer, threads
from membench.layers.kernels.pages import asked_for_huge_pages
from membench.layers.kernels.paths import handed_on
from membench.layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep


class _Step(ctypes.Structure):
    """``Step`` of rows.h."""

    _fields_ = [
        ("rule", ctypes.c_int32),
        ("stochastic", ctypes.c_int32),
        *((name, ctypes.c_double) for name in ("learning_rate", "weight_decay", "eps", "beta1", "beta2")),
        *((name, ctypes.c_double) for name in ("correction1", "correction2")),
        ("number", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("sums", "first", "second", "stamps")),
    ]

    @classmethod
    def of(cls, step: RowStep, state: RowState) -> "_Step":
        """Pointers to the tensors that the rule's state has, null for the others."""
        step = step.read()
        pointers = {name: tensor.data_ptr() for name, tensor in state.named_tensors().items()}
        return cls(
            rule=ROW_OPTIMIZERS.index(step.optimizer),
            stochastic=step.seed is not None,
            learning_rate=step.learning_rate,
            weight_decay=step.weight_decay,
            eps=step.eps,
            beta1=step.beta1,
            beta2=step.beta2,
            correction1=1 - step.beta1**step.number,
            correction2=1 - step.beta2**step.number,
            number=step.number,
            seed=step.seed or 0,
            **pointers,
        )


def weighted_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Each thread computes some of the bags."""
    if not computable(table, table.dtype):
        return handed_on("row_passes").weighted_bag(table, rows, weights)
    return bags(table, None, rows, weights, table.dtype)


def row_dots(table: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Token by token: to sort the lookups would take longer than to fetch again the few rows that repeat."""
    if not _computable(table, tokens):
        return handed_on("row_passes").row_dots(table, rows, tokens)
    check_rows(rows, len(table))
    rows, tokens = rows.long().contiguous(), tokens.contiguous()
    dots = torch.empty(rows.shape, dtype=torch.float32)
    call(
        "row_dots",
        ctypes.c_int(ELEMENTS[table.dtype]),
        *map(pointer, (table, rows, tokens)),
        *map(ctypes.c_int64, (*rows.shape, table.shape[1])),
        pointer(dots),
        threads(),
    )
    return dots


def row_backward(
    table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor, *, by_row: bool = False, gradient: bool, dots: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gathers the tokens once, run by run."""
    if not _computable(table, tokens):
        compute = handed_on("row_passes").row_backward
        return compute(table, runs, weights, tokens, by_row=by_row, gradient=gradient, dots=dots)
    summed = None
    if gradient:
        summed = tokens.new_zeros(table.shape) if by_row else tokens.new_empty(len(runs.rows), table.shape[1])
        summed = asked_for_huge_pages(summed)
    found = torch.empty(weights.shape, dtype=torch.float32) if dots else None
    _pass(table, runs, weights, tokens, summed, found, None, by_row=by_row)
    return summed, found


def row_backward_update_(
    table: Tensor, state: RowState, runs: Runs, weights: Tensor, tokens: Tensor, step: RowStep, *, dots: bool
) -> Tensor | None:
    """The same, and then updates each row while it is in the cache."""
    if not _computable(table, tokens):
        return handed_on("row_passes").row_backward_update_(table, state, runs, weights, tokens, step, dots=dots)
    found = torch.empty(weights.shape, dtype=torch.float32) if dots else None
    _pass(table, runs, weights, tokens, None, found, _Step.of(step, state))
    return found


def update_rows_(table: Tensor, state: RowState, rows: Tensor, gradient: Tensor, step: RowStep) -> None:
    """Each thread updates some of the rows."""
    if not _computable(table, gradient):
        handed_on("row_passes").update_rows_(table, state, rows, gradient, step)
        return
    check_rows(rows, len(table))
    rows, gradient = rows.long().contiguous(), gradient.contiguous()
    call(
        "update_rows",
        ctypes.c_int(ELEMENTS[table.dtype]),
        *map(pointer, (table, rows, gradient)),
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(table.shape[1]),
        ctypes.byref(_Step.of(step, state)),
        threads(),
    )


def _pass(
    table: Tensor,
    runs: Runs,
    weights: Tensor,
    tokens: Tensor,
    summed: Tensor | None,
    found: Tensor | None,
    step: _Step | None,
    *,
    by_row: bool = False,
) -> None:
    if found is not None or step is not None or by_row:
        check_rows(runs.rows, len(table))
    rows, weights, tokens = runs.rows.long(), weights.float().contiguous(), tokens.contiguous()
    call(
        "row_backward",
        ctypes.c_int(ELEMENTS[table.dtype]),
        *map(pointer, (table, rows, runs.starts, runs.order)),
        *map(ctypes.c_int64, (len(rows), table.shape[1], weights.shape[1])),
        *map(pointer, (weights, tokens, summed)),
        ctypes.c_bool(by_row),
        pointer(found),
        None if step is None else ctypes.byref(step),
        threads(),
    )


def _computable(table: Tensor, other: Tensor) -> bool:
    return table.dtype == other.dtype and table.dtype in ELEMENTS and table.is_contiguous()
