"""Weighted sums of table rows, their products with tokens, and what the rows' gradients need, in single passes.

    bag    y_b  = sum_l w_bl · row_bl      dw_bl = row_bl · dy_b,  d(row) = sum over its lookups of w_bl · dy_b
    dots   s_bl = row_bl · x_b             dx_b  = sum_l ds_bl · row_bl,  d(row) = sum of ds_bl · x_b

Each is the gradient of the other. Only rows that were read have a gradient. A backward pass visits them in order. It
reads each row once and a token's vector once per lookup, and can update the row at once, so that the row's gradient
is never written to memory. Sums have a fixed order, so the bits are the same every time.

Letters: N rows, D columns, B tokens, L lookups a token, M = B·L, U distinct rows among them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_floats, check_integers, check_shape, check_together
from membench.layers.kernels.lookups import Runs, find_runs
from membench.layers.kernels.paths import implementation
from membench.layers.kernels.precision import computed_as_given
from membench.layers.kernels.row_update import RowOptimizer, RowState, RowStep
from membench.layers.kernels.torch import row_update as torch_rows
from membench.layers.kernels.uncompiled import custom_op

_NAME = "row_passes"


def weighted_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(B, D): the sum over l of weights (B, L) times table[rows]; rows (B, L). Differentiable.

    Summed in fp32. A table that requires a gradient gets a sparse one, of the rows that were read.

    Raises:
        ValueError: shapes, dtypes or devices do not fit each other. All functions here raise it.
    """
    _check_lookups(table, rows)
    _check_weights(weights, rows.shape[0], rows.shape[1])
    check_together(table=table, rows=rows, weights=weights)
    return _weighted_bag(table, rows, weights)


def row_dots(table: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """(B, L) fp32: the rows that a token reads, each times the token's own vector of tokens (B, D). Differentiable."""
    _check_lookups(table, rows)
    _check_tokens(tokens, rows.shape[0], table)
    check_together(table=table, rows=rows, tokens=tokens)
    return _row_dots(table, rows, tokens)


def row_backward(
    table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor, *, gradient: bool, dots: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a bag's rows and weights, given tokens = dy. For ``row_dots``: only those of its rows.

    Returns:
        (U, D) for each distinct row the sum, over its lookups, of weights (B, L) times tokens (B, D), in their
        dtype, if ``gradient``; and (B, L) fp32, the ``row_dots`` of the same lookups, if ``dots``.
    """
    _check_pass(table, runs, weights, tokens)
    summed, found = _row_backward(table, runs.rows, runs.starts, runs.order, weights, tokens, False, gradient, dots)
    return summed if gradient else None, found if dots else None


def gradient_of_all_rows(table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor) -> Tensor:
    """(N, D): the gradient of ``row_backward`` where the rows lie, and zero in rows that nothing read.

    For a table of few rows, most of which are read: nothing is sorted out and written a second time.
    """
    _check_pass(table, runs, weights, tokens)
    return _row_backward(table, runs.rows, runs.starts, runs.order, weights, tokens, True, True, False)[0]


def row_backward_update_(
    table: Tensor, state: RowState, runs: Runs, weights: Tensor, tokens: Tensor, step: RowStep, *, dots: bool
) -> Tensor | None:
    """The same pass, which updates each row instead of writing its gradient; returns the dots.

    A row is read before it is updated, so the dots use the table as it was before.
    """
    _check_pass(table, runs, weights, tokens)
    state.check(table, step.optimizer)
    step.check(table)
    found = _row_backward_update_(
        table, *_tensors(state), runs.rows, runs.starts, runs.order, weights, tokens, *_numbers(step), dots
    )
    return found if dots else None


def update_rows_(
    table: Tensor, state: RowState, rows: Tensor, gradient: Tensor, step: RowStep, squares: Tensor | None = None
) -> None:
    """Updates table[rows], distinct rows (U,), by their gradient (U, D).

    ``squares`` (U,) fp32 are the means of the gradient's squares where they are not those of these D columns alone.
    """
    check_shape("rows", rows, (None,), "(U,)")
    check_integers("rows", rows)
    _check_tokens(gradient, rows.shape[0], table, "gradient", "(U, D)")
    check_together(table=table, rows=rows, gradient=gradient)
    state.check(table, step.optimizer)
    step.check(table)
    if squares is not None:
        check_shape("squares", squares, (rows.shape[0],), "(U,)")
        torch_rows.update_rows_(table, state, rows, gradient, step, squares)
        return
    _update_rows_(table, *_tensors(state), rows, gradient, *_numbers(step))


def _check_pass(table: Tensor, runs: Runs, weights: Tensor, tokens: Tensor) -> None:
    check_shape("table", table, (None, None), "(N, D)")
    _check_weights(weights, tokens.shape[0], None)
    _check_tokens(tokens, weights.shape[0], table)
    check_shape("runs.rows", runs.rows, (None,), "(U,)")
    check_integers("runs.rows", runs.rows)
    check_shape("runs.starts", runs.starts, (runs.rows.shape[0] + 1,), "(U + 1,)")
    check_shape("runs.order", runs.order, (weights.numel(),), "(B·L,)")
    for name, part in (("runs.starts", runs.starts), ("runs.order", runs.order)):
        check_integers(name, part, wide=False)
        if not part.is_contiguous():
            raise ValueError(f"{name} should be contiguous, as find_runs makes it")
    check_together(table=table, rows=runs.rows, starts=runs.starts, order=runs.order, weights=weights, tokens=tokens)


def _check_lookups(table: Tensor, rows: Tensor) -> None:
    check_shape("table", table, (None, None), "(N, D)")
    check_floats("table", table)
    check_shape("rows", rows, (None, None), "(B, L)")
    check_integers("rows", rows)


def _check_weights(weights: Tensor, tokens: int, lookups: int | None) -> None:
    check_shape("weights", weights, (tokens, lookups), "(B, L)")
    check_floats("weights", weights)


def _check_tokens(tokens: Tensor, count: int, table: Tensor, name: str = "tokens", like: str = "(B, D)") -> None:
    check_shape(name, tokens, (count, table.shape[1]), like)
    check_floats(name, tokens)


@custom_op("membench::weighted_bag")
@computed_as_given
def _weighted_bag(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return implementation(_NAME, table).weighted_bag(table, rows, weights)


@_weighted_bag.register_fake
def _(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    del weights
    return table.new_empty(rows.shape[0], table.shape[1])


@custom_op("membench::row_dots")
@computed_as_given
def _row_dots(table: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    return implementation(_NAME, table).row_dots(table, rows, tokens)


@_row_dots.register_fake
def _(table: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    del tokens
    return table.new_empty(rows.shape, dtype=torch.float32)


@custom_op("membench::row_backward")
@computed_as_given
def _row_backward(
    table: Tensor,
    rows: Tensor,
    starts: Tensor,
    order: Tensor,
    weights: Tensor,
    tokens: Tensor,
    by_row: bool,
    gradient: bool,
    dots: bool,
) -> tuple[Tensor, Tensor]:
    compute = implementation(_NAME, table).row_backward
    found = compute(table, Runs(rows, starts, order), weights, tokens, by_row=by_row, gradient=gradient, dots=dots)
    # an operator must return tensors: an empty one stands for what was not asked for
    return tuple(table.new_empty(0) if each is None else each for each in found)  # type: ignore[return-value]


@_row_backward.register_fake
def _(
    table: Tensor,
    rows: Tensor,
    starts: Tensor,
    order: Tensor,
    weights: Tensor,
    tokens: Tensor,
    by_row: bool,
    gradient: bool,
    dots: bool,
) -> tuple[Tensor, Tensor]:
    del starts, order
    count = table.shape[0] if by_row else rows.shape[0]
    summed = tokens.new_empty(count, table.shape[1]) if gradient else table.new_empty(0)
    found = table.new_empty(weights.shape, dtype=torch.float32) if dots else table.new_empty(0)
    return summed, found


@custom_op("membench::row_backward_update_", mutates_args=("table", "sums", "first", "second", "stamps"))
@computed_as_given
def _row_backward_update_(
    table: Tensor,
    sums: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    stamps: Tensor | None,
    rows: Tensor,
    starts: Tensor,
    order: Tensor,
    weights: Tensor,
    tokens: Tensor,
    optimizer: str,
    numbers: list[float],
    number: int,
    seed: int | None,
    clock: Tensor | None,
    dots: bool,
) -> Tensor:
    compute = implementation(_NAME, table).row_backward_update_
    step, state = _step(optimizer, numbers, number, seed, clock), RowState(sums, first, second, stamps)
    found = compute(table, state, Runs(rows, starts, order), weights, tokens, step, dots=dots)
    return table.new_empty(0) if found is None else found


@_row_backward_update_.register_fake
def _(table: Tensor, *arguments: Any) -> Tensor:
    weights, dots = arguments[7], arguments[-1]
    return table.new_empty(weights.shape, dtype=torch.float32) if dots else table.new_empty(0)


@custom_op("membench::update_rows_", mutates_args=("table", "sums", "first", "second", "stamps"))
@computed_as_given
def _update_rows_(
    table: Tensor,
    sums: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    stamps: Tensor | None,
    rows: Tensor,
    gradient: Tensor,
    optimizer: str,
    numbers: list[float],
    number: int,
    seed: int | None,
    clock: Tensor | None,
) -> None:
    step, state = _step(optimizer, numbers, number, seed, clock), RowState(sums, first, second, stamps)
    implementation(_NAME, table).update_rows_(table, state, rows, gradient, step)


@_update_rows_.register_fake
def _(table: Tensor, *arguments: Any) -> None:
    del table, arguments


def _tensors(state: RowState) -> tuple[Tensor | None, ...]:
    return state.sums, state.first, state.second, state.stamps


def _numbers(step: RowStep) -> tuple[str, list[float], int, int | None, Tensor | None]:
    """The fields of the step, because an operator takes no objects."""
    rates = [step.learning_rate, step.weight_decay, step.eps, step.beta1, step.beta2]
    return step.optimizer, rates, step.number, step.seed, step.clock


def _step(optimizer: str, numbers: list[float], number: int, seed: int | None, clock: Tensor | None) -> RowStep:
    known: RowOptimizer = optimizer  # type: ignore[assignment]
    return RowStep(known, *numbers, number=number, seed=seed, clock=clock)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _bag_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    table, rows, weights = ctx.saved_tensors
    of_table, _, of_weights = ctx.needs_input_grad
    if not of_table:
        return None, None, row_dots(table, rows, dy).to(weights.dtype) if of_weights else None
    runs = find_runs(rows.flatten(), table.shape[0]).exact()
    gradient, found = row_backward(table, runs, weights, dy.contiguous(), gradient=True, dots=of_weights)
    return _sparse(runs, gradient, table), None, None if found is None else found.to(weights.dtype)


def _dots_backward(ctx: Any, ddots: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    table, rows, tokens = ctx.saved_tensors
    of_table, _, of_tokens = ctx.needs_input_grad
    gradient = None
    if of_table:
        runs = find_runs(rows.flatten(), table.shape[0]).exact()
        summed, _ = row_backward(table, runs, ddots, tokens, gradient=True, dots=False)
        gradient = _sparse(runs, summed, table)
    return gradient, None, weighted_bag(table, rows, ddots).to(tokens.dtype) if of_tokens else None


def _sparse(runs: Runs, gradient: Tensor | None, table: Tensor) -> Tensor:
    assert gradient is not None
    return torch.sparse_coo_tensor(
        runs.rows[None].long(), gradient.to(table.dtype), table.shape, is_coalesced=True, check_invariants=False
    )


_weighted_bag.register_autograd(_bag_backward, setup_context=_save)
_row_dots.register_autograd(_dots_backward, setup_context=_save)


@register_flop_formula([torch.ops.membench.weighted_bag, torch.ops.membench.row_dots])
def _one_product_a_lookup(table: Any, rows: Any, other: Any, *, out_shape: Any = None, **others: Any) -> int:
    del other, out_shape, others
    return 2 * rows[0] * rows[1] * table[1]


@register_flop_formula(torch.ops.membench.row_backward)
def _backward_flops(
    table: Any,
    rows: Any,
    starts: Any,
    order: Any,
    weights: Any,
    tokens: Any,
    by_row: bool,
    gradient: bool,
    dots: bool,
    *,
    out_shape: Any = None,
    **others: Any,
) -> int:
    del rows, starts, order, tokens, by_row, out_shape, others
    return 2 * weights[0] * weights[1] * table[1] * (gradient + dots)


@register_flop_formula(torch.ops.membench.row_backward_update_)
def _backward_update_flops(table: Any, *arguments: Any, out_shape: Any = None, **others: Any) -> int:
    del out_shape, others
    weights, dots = arguments[7], arguments[-1]
    return 2 * weights[0] * weights[1] * table[1] * (1 + dots)
