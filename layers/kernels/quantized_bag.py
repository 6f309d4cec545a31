"""Weighted sums of table rows that are stored in eight bits per number, for layers that are not trained.

    y_b = sum_l w_bl · scale_row · q_row

Rows are converted where they are summed. So a quarter of the bytes of fp32 rows is fetched, half of bf16 rows.

Letters: N rows, D columns, B tokens, L lookups a token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_floats, check_integers, check_shape, check_together
from membench.layers.kernels.paths import implementation
from membench.layers.kernels.precision import computed_as_given
from membench.layers.kernels.quantization import LARGEST
from membench.layers.kernels.uncompiled import custom_op


def quantized_bag(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, D) of ``dtype``: the sum over l of weights (B, L) times scales[rows] times table[rows]. No gradient.

    Args:
        table: (N, D) int8 or float8_e4m3fn, as ``quantize_rows`` makes it.
        scales: (N,) fp32.
        rows: (B, L) int32 or int64.
        dtype: of the result; sums are formed in fp32.

    Raises:
        ValueError: the table has another dtype (``Module.to`` with a dtype casts e4m3 rows, for example), or
            shapes, dtypes or devices do not fit each other.
        RuntimeError: in a backward pass.
    """
    if table.dtype not in LARGEST or scales.dtype != torch.float32:
        raise ValueError(f"rows of {table.dtype} with scales of {scales.dtype} are none that quantize_rows makes")
    check_shape("table", table, (None, None), "(N, D)")
    check_shape("scales", scales, (table.shape[0],), "(N,)")
    check_shape("rows", rows, (None, None), "(B, L)")
    check_integers("rows", rows)
    check_shape("weights", weights, (rows.shape[0], rows.shape[1]), "(B, L)")
    check_floats("weights", weights)
    check_together(table=table, scales=scales, rows=rows, weights=weights)
    return _quantized_bag(table, scales, rows, weights, dtype)


@custom_op("membench::quantized_bag")
@computed_as_given
def _quantized_bag(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    return implementation("quantized_bag", table).quantized_bag(table, scales, rows, weights, dtype)


@_quantized_bag.register_fake
def _(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    del scales, weights
    return table.new_empty(rows.shape[0], table.shape[1], dtype=dtype)


def _no_gradient(ctx: Any, upstream: Tensor) -> None:
    del ctx, upstream
    raise RuntimeError("quantized rows are read, not trained: run the layer under torch.no_grad()")


_quantized_bag.register_autograd(_no_gradient)


@register_flop_formula(torch.ops.membench.quantized_bag)
def _one_product_a_lookup(
    table: Any, scales: Any, rows: Any, weights: Any, dtype: Any, *, out_shape: Any = None, **others: Any
) -> int:
    del scales, weights, dtype, out_shape, others
    return 2 * rows[0] * rows[1] * table[1]
