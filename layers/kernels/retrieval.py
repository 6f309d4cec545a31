"""Scores and choice as one differentiable step, because together their backward needs less work.

Only 2·H·k of a token's 2·H·n scores have a gradient. If their gradients are written into a matrix of zeros, the
backward costs 4·B·H·n·dk FLOPs. If the chosen keys are treated as rows that are read, it is a bag over them and costs
4·B·H·k·dk, n/k times less. This is done if n is large enough (``RetrievalSpec.sparse_scores_backward``).

Letters: B tokens, H heads, n sub-keys a half, c = dk/2 columns of a half, k rows a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from membench.layers.kernels.key_scores import key_scores, scores_with_scales
from membench.layers.kernels.lookups import Lookups
from membench.layers.kernels.precision import computed_as_given
from membench.layers.kernels.row_passes import row_backward, weighted_bag
from membench.layers.kernels.stages import stage
from membench.layers.kernels.top_k import product_key_top_k, sums_gradient


def retrieve(
    queries: Tensor, keys: Tensor, top_k: int, *, normalized: bool, eps: float, sparse_backward: bool
) -> tuple[Tensor, Tensor]:
    """The best k rows of every head for queries (B, H, 2, c), fp32, and keys (H, 2, n, c).

    Returns:
        sub-keys (2, B, H, k) int32 and weights (B, H, k) fp32 as of ``product_key_top_k``.
    """
    if sparse_backward and torch.is_grad_enabled() and (queries.requires_grad or keys.requires_grad):
        return _Retrieve.apply(queries, keys, top_k, normalized, eps)
    with stage("scores"):
        scores = key_scores(queries, keys, normalized=normalized, eps=eps)
    with stage("top_k"):
        return product_key_top_k(scores, top_k)


class _Retrieve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, top_k: int, normalized: bool, eps: float
    ) -> tuple[Tensor, Tensor]:
        with stage("scores"):
            scores, inverse_rms = scores_with_scales(queries, keys, normalized=normalized, eps=eps)
        with stage("top_k"):
            halves, weights = product_key_top_k(scores, top_k)
            chosen = _at(scores, halves) if normalized else None
        ctx.save_for_backward(queries, keys, halves, weights, chosen, inverse_rms)
        ctx.mark_non_differentiable(halves)
        return halves, weights

    @staticmethod
    @once_differentiable
    @computed_as_given
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries and keys, by bags over only the chosen keys."""
        queries, keys, halves, weights, chosen, inverse_rms = ctx.saved_tensors
        with stage("top_k"):
            of_sums = sums_gradient(weights, upstream[1])
            gradient = of_sums[:, :, None].expand(-1, -1, 2, -1).flatten(0, 2)  # (B·H·2, k), the same for both halves
        with stage("scores"):
            rows = _numbered(halves, keys.shape[2])
            read = Lookups(rows, keys.numel() // keys.shape[-1])
            of_products = gradient if chosen is None else gradient * inverse_rms.flatten()[rows]
            dqueries = dkeys = None
            flat = keys.flatten(0, 2)
            if ctx.needs_input_grad[0]:
                dqueries = weighted_bag(flat, read.rows, of_products).float().view(queries.shape)
            if ctx.needs_input_grad[1]:
                along = None if chosen is None else gradient * chosen
                dkeys = _keys_gradient(flat, read, of_products, queries, along, inverse_rms).view(keys.shape)
        return dqueries, dkeys, None, None, None


def _at(scores: Tensor, halves: Tensor) -> Tensor:
    """(B·H·2, k): the chosen scores of (H, 2, B, n)."""
    return scores.gather(-1, halves.permute(2, 0, 1, 3).long()).permute(2, 0, 1, 3).flatten(0, 2)


def _numbered(halves: Tensor, sub_keys: int) -> Tensor:
    """(B·H·2, k): the chosen sub-keys as rows of the keys (H·2·n, c)."""
    heads = halves.shape[2]
    first = torch.arange(0, 2 * heads * sub_keys, sub_keys, device=halves.device, dtype=torch.int32)
    return (halves.permute(1, 2, 0, 3) + first.view(heads, 2, 1)).flatten(0, 2)


def _keys_gradient(
    keys: Tensor, read: Lookups, weights: Tensor, queries: Tensor, along: Tensor | None, inverse_rms: Tensor
) -> Tensor:
    """(H·2·n, c): of each key the sum, over what chose it, of weights times queries; zero where nothing did.

    Args:
        along: of normalized keys ds·s (B·H·2, k), whose sums turn each gradient away from its key.
    """
    runs, count = read.runs, keys.shape[0]
    tokens = queries.reshape(-1, keys.shape[1]).to(keys.dtype)
    summed, _ = row_backward(keys, runs, weights, tokens, gradient=True, dots=False)
    assert summed is not None
    if along is not None:
        ones = inverse_rms.new_ones(max(count, len(tokens)), 1)
        sums, _ = row_backward(ones[:count], runs, along, ones[: len(tokens)], gradient=True, dots=False)
        assert sums is not None
        turned = sums * inverse_rms.view(-1, 1)[runs.rows].square() / keys.shape[1]
        summed = summed - (keys[runs.rows].float() * turned).to(keys.dtype)
    # a GPU's empty runs are written past the end
    place = torch.where(runs.starts[1:] > runs.starts[:-1], runs.rows, count).long()
    return keys.new_zeros(count + 1, keys.shape[1]).index_copy_(0, place, summed)[:count]
