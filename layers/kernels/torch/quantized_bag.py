"""Bags of quantized rows by torch's own calls. Shapes and meaning: ``layers.kernels.quantized_bag``.

Letters: B tokens, D columns, L lookups a token.
"""

import torch
from torch import Tensor

from membench.layers.kernels.quantization import rows_of, widened

_GATHERED_ELEMENTS = 2**19  # so many fp32 numbers stay in a cache; all B·L·D would be written to memory and read again


def quantized_bag(table: Tensor, scales: Tensor, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Gathers the rows of some tokens at a time, converts them, and multiplies them as small matrices."""
    lookups, columns = rows.shape[1], table.shape[1]
    bags = torch.empty(rows.shape[0], columns, dtype=dtype, device=table.device)
    tokens = max(1, _GATHERED_ELEMENTS // max(1, lookups * columns))
    for bag, row, weight in zip(bags.split(tokens), rows.split(tokens), weights.split(tokens), strict=True):
        gathered = widened(rows_of(table, row.flatten())).view(len(row), lookups, columns)
        factors = weight.float() * scales[row]
        bag.copy_((factors[:, None] @ gathered)[:, 0])
    return bags
