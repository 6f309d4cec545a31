"""Scores of few queries against product keys, in C++: a decoder's step, which waits for the keys and for nothing else.

Each half is a product of a few rows with a matrix, and a kernel that packs those rows, or widens the keys first,
takes longer for that than reading the keys does. This one reads them once, as they lie there, and takes their norms in
the same pass.

Letters: B tokens, H heads, n sub-keys a half, c columns of a half.
"""

import ctypes

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_shape
from membench.layers.kernels.native.calls import ELEMENTS, call, pointer, threads
from membench.layers.kernels.paths import path_of

_MOST_TOKENS = 4


def is_best_for(queries: Tensor, keys: Tensor) -> bool:
    """Whether this kernel scores queries (B, H, 2, c) against keys (H, 2, n, c) faster than others do."""
    if not 0 < len(queries) <= _MOST_TOKENS or keys.dtype not in ELEMENTS or not keys.numel():
        return False
    return keys.is_contiguous() and path_of(keys) == "native"


def key_scores(queries: Tensor, keys: Tensor, *, normalized: bool, eps: float) -> tuple[Tensor, Tensor]:
    """fp32 scores (H, 2, B, n) of queries (B, H, 2, c), fp32, and keys (H, 2, n, c); 1/rms (H, 2, 1, n) if normalized.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_shape("keys", keys, (None, 2, None, None), "(H, 2, n, c)")
    heads, _, sub_keys, columns = keys.shape
    check_shape("queries", queries, (None, heads, 2, columns), "(B, H, 2, c)")
    if queries.dtype != torch.float32 or keys.dtype not in ELEMENTS:
        raise ValueError(f"queries are {queries.dtype} and keys {keys.dtype}: fp32, and at most fp32, are scored")
    queries, keys = queries.contiguous(), keys.contiguous()
    scores = torch.empty(heads, 2, len(queries), sub_keys)
    inverse_rms = torch.empty((heads, 2, 1, sub_keys) if normalized else 0)
    call(
        "few_scores",
        ctypes.c_int(ELEMENTS[keys.dtype]),
        *map(pointer, (queries, keys)),
        *map(ctypes.c_int64, (len(queries), 2 * heads, sub_keys, columns)),
        ctypes.c_bool(normalized),
        ctypes.c_double(eps),
        *map(pointer, (scores, inverse_rms)),
        threads(),
    )
    return scores, inverse_rms
