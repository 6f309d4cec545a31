"""A memory layer for few tokens in one call, where ``few_tokens.can_step``: query, choice of rows, their sum, gate.

Letters: B tokens, d model dim, D value dim, H heads, k rows a head, N rows.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels.checks import check_dtypes, check_shape
from membench.layers.kernels.native import memory_step as native
from membench.layers.kernels.plain_operator import step_operator
from membench.layers.kernels.quantization import LARGEST
from membench.layers.kernels.retrieval_step import SCHEMA, Retrieving, flops


def memory_step(
    retrieving: Retrieving, table: Tensor, row_scales: Tensor | None, gate: Tensor | None, output: Tensor | None
) -> Tensor:
    """y (B, d). An observer of stages is served by a call for each.

    Args:
        table: (N, D) of the layer's dtype; or of int8 or float8_e4m3fn, with row_scales (N,) fp32.
        gate, output: (D, d) and (d, D), both or the second or neither.

    Raises:
        ValueError: shapes or dtypes do not fit.
        IndexError: the table has no such row.
    """
    retrieving.check()
    dtype, model_dim = retrieving.x.dtype, retrieving.x.shape[1]
    check_shape("table", table, (None, table.shape[-1]), "(N, D)")
    width = table.shape[1]
    if row_scales is None:
        check_dtypes(dtype, table=table)
    else:
        if table.dtype not in LARGEST:
            raise ValueError(f"a table with scales should be one that quantize_rows makes, not {table.dtype}")
        check_shape("row_scales", row_scales, (len(table),), "(N,)")
        check_dtypes(torch.float32, row_scales=row_scales)
    rows = retrieving.keys.shape[2] ** 2
    if len(table) < rows:
        raise ValueError(f"table should have {rows} rows, one for each key, not {len(table)}")
    if output is None and (gate is not None or width != model_dim):
        raise ValueError(f"a gate, and rows of {width} for tokens of {model_dim}, should be followed by an output")
    for name, weight, shape in (("gate", gate, (width, model_dim)), ("output", output, (model_dim, width))):
        if weight is not None:
            check_shape(name, weight, shape, "(D, d), and (d, D) of the output")
            check_dtypes(dtype, **{name: weight})
    return _memory_step(*retrieving.operands(), table, row_scales, gate, output)


_memory_step = step_operator(
    f"memory_step({SCHEMA}, Tensor table, Tensor? row_scales, Tensor? gate, Tensor? output) -> Tensor",
    native.memory_step,
)


@register_flop_formula(torch.ops.membench.memory_step)
def _flops(x: Any, *operands: Any, out_shape: Any = None, **named: Any) -> int:
    """Products with matrices and keys, and one of every row that is read with its weight."""
    del out_shape, named
    query, keys, top_k = operands[2], operands[3], operands[8]
    table, _, gate, output = operands[11:]
    products = (gate is not None) + (output is not None)
    return flops(x, query, keys) + 2 * x[0] * table[1] * (keys[0] * top_k + products * x[1])
