"""Scores and choice as one differentiable step, because together their backward needs less work.

Only 2·H·k of a token's 2·H·n scores have a gradient. If their gradients are written into a matrix of zeros, the
backward costs 4·B·H·n·dk FLOPs. If the chosen keys are treated as rows that are read, it is a bag over them and costs
4·B·H·k·dk, n/k times less. The config counts the second where n is large enough
(``RetrievalSpec.sparse_scores_backward``), and a CPU does it so. A GPU multiplies matrices so much faster than it
gathers rows that it does so only for far longer lists.

Letters: B tokens, H heads, n sub-keys a half, c = dk/2 columns of a half, k rows a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.kernels.key_scores import (
    across_keys,
    are_scaled_when_chosen,
    gradient_dtype,
    products_backward,
    products_with_scales,
    scores_with_scales,
)
from membench.layers.kernels.lookups import Lookups
from membench.layers.kernels.paths import on_gpu
from membench.layers.kernels.precision import computed_as_given
from membench.layers.kernels.row_passes import gradient_of_all_rows, weighted_bag
from membench.layers.kernels.stages import stage
from membench.layers.kernels.top_k import product_key_top_k, scores_gradient, sums_gradient

_SPARSE_FROM_ON_GPU = 128  # sub-keys a half for each that is chosen; computed for an H100, not measured


def retrieve(
    queries: Tensor, keys: Tensor, top_k: int, *, normalized: bool, eps: float, sparse_backward: bool
) -> tuple[Tensor, Tensor]:
    """The best k rows of every head for queries (B, H, 2, c), fp32 or like keys, and keys (H, 2, n, c).

    Args:
        queries: or in parts, as of ``normalized_queries``, where no gradient is asked for.
        sparse_backward: only the chosen keys are read for a gradient, unless this device reads all of them sooner.

    Returns:
        sub-keys (2, B, H, k) int32 and weights (B, H, k) fp32 as of ``product_key_top_k``.
    """
    if torch.is_grad_enabled() and (queries.requires_grad or keys.requires_grad):
        sparse = sparse_backward and not reads_all_sooner(keys, top_k)
        return _Retrieve.apply(queries, keys, top_k, normalized, eps, sparse)
    return _chosen(queries, keys, top_k, normalized, eps)[:2]


def _chosen(queries: Tensor, keys: Tensor, top_k: int, normalized: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The choice, its weights, and r (H, 2, 1, n), which is empty where nothing is normalized."""
    scaled_when_chosen = normalized and are_scaled_when_chosen(keys)
    with stage("scores"):
        if scaled_when_chosen:
            scores, inverse_rms = products_with_scales(queries, keys, eps=eps)
        else:
            scores, inverse_rms = scores_with_scales(queries, keys, normalized=normalized, eps=eps)
    with stage("top_k"):
        return *product_key_top_k(scores, top_k, inverse_rms if scaled_when_chosen else None), inverse_rms


def reads_all_sooner(keys: Tensor, top_k: int) -> bool:
    """Whether gradients of all n scores a half are multiplied sooner than those of k are gathered."""
    return on_gpu(keys) and keys.shape[2] < _SPARSE_FROM_ON_GPU * top_k


class _Retrieve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, top_k: int, normalized: bool, eps: float, sparse: bool
    ) -> tuple[Tensor, Tensor]:
        halves, weights, inverse_rms = _chosen(queries, keys, top_k, normalized, eps)
        ctx.sparse = sparse
        ctx.save_for_backward(queries, keys, halves, weights, inverse_rms)
        ctx.mark_non_differentiable(halves)
        return halves, weights

    @staticmethod
    @once_differentiable
    @computed_as_given
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, halves, weights, inverse_rms = ctx.saved_tensors
        with stage("top_k"):
            of_sums = sums_gradient(weights, upstream[1])
        by = _by_chosen if ctx.sparse else _by_all
        of_queries, of_keys = ctx.needs_input_grad[:2]
        gradients = by(halves, of_sums, queries, keys, inverse_rms, (of_queries, of_keys))
        return *gradients, None, None, None, None


def _by_all(
    halves: Tensor, of_sums: Tensor, queries: Tensor, keys: Tensor, inverse_rms: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of queries and keys that are wanted, by products with the gradients of all scores."""
    with stage("top_k"):
        scales = inverse_rms if inverse_rms.numel() else None
        dproducts = scores_gradient(halves, of_sums, keys.shape[2], scales, gradient_dtype(keys))
    with stage("scores"):
        return products_backward(dproducts, queries, keys, inverse_rms, wanted)


def _by_chosen(
    halves: Tensor, of_sums: Tensor, queries: Tensor, keys: Tensor, inverse_rms: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The same by bags over the chosen keys, and over the queries that chose them."""
    with stage("scores"):
        rows, flat = _numbered(halves, keys.shape[2]), keys.flatten(0, 2)
        read = Lookups(rows, len(flat))
        dproducts = of_sums[:, :, None].expand(-1, -1, 2, -1).flatten(0, 2)  # (B·H·2, k), the same for both halves
        if inverse_rms.numel():
            dproducts = dproducts * inverse_rms.flatten()[rows]
        dqueries = dkeys = None
        if wanted[0]:
            dqueries = weighted_bag(flat, read.rows, dproducts).to(queries.dtype).view(queries.shape)
        if wanted[1]:
            tokens = queries.reshape(-1, flat.shape[1]).to(keys.dtype)
            gradient = gradient_of_all_rows(flat, read.runs, dproducts, tokens)
            dkeys = across_keys(gradient, flat, inverse_rms).view(keys.shape)
        return dqueries, dkeys


def _numbered(halves: Tensor, sub_keys: int) -> Tensor:
    """(B·H·2, k): the chosen sub-keys as rows of the keys (H·2·n, c)."""
    heads = halves.shape[2]
    first = torch.arange(0, 2 * heads * sub_keys, sub_keys, device=halves.device, dtype=torch.int32)
    return (halves.permute(1, 2, 0, 3) + first.view(heads, 2, 1)).flatten(0, 2)
