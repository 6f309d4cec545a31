"""The best k of the n² sums that two halves' scores make, with their softmax weights (arXiv 1907.05242, section 3.1).

The best k sums lie among the pairs (i, j) of both halves' best k with (i+1)(j+1) <= k, counted from 0 in
sorted order: 119 pairs at k = 32. Selection is exact, ties included: equal sums go to the lower row i·n + j.

Letters: H heads, B tokens, n sub-keys a half, k rows a head.
"""

from typing import Any

import torch
from torch import Tensor

from layers.kernels.paths import implementation


def product_key_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The choice of both halves' scores (H, 2, B, n), fp32. Differentiable by the weights.

    Returns:
        sub-keys i and j of the chosen rows i·n + j (2, B, H, k) int32, best first; and the softmax (B, H, k)
        fp32 of their sums.

    Raises:
        ValueError: k is above n.
    """
    if top_k > scores.shape[-1]:
        raise ValueError(f"top_k {top_k} of {scores.shape[-1]} sub-keys a half: each offers at most all it has")
    return _product_key_top_k(scores, top_k)


def sums_gradient(weights: Tensor, gradient: Tensor) -> Tensor:
    """(B, H, k): the softmax's backward, the gradient of the chosen sums given that of their weights (B, H, k)."""
    weighted = weights * gradient
    return torch.addcmul(weighted, weights, weighted.sum(dim=-1, keepdim=True), value=-1)


@torch.library.custom_op("membench::product_key_top_k", mutates_args=())
def _product_key_top_k(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    return implementation("top_k", scores).product_key_top_k(scores, top_k)


@_product_key_top_k.register_fake
def _(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    heads, _, tokens, _ = scores.shape
    halves = scores.new_empty(2, tokens, heads, top_k, dtype=torch.int32)
    return halves, scores.new_empty(tokens, heads, top_k)


def _save(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.shape = inputs[0].shape
    ctx.save_for_backward(*output)
    ctx.mark_non_differentiable(output[0])


def _backward(ctx: Any, _: Any, gradient: Tensor) -> tuple[Tensor, None]:
    halves, weights = ctx.saved_tensors
    of_sums = sums_gradient(weights, gradient)
    scores_gradient = of_sums.new_zeros(ctx.shape)
    # a half of the scores may be part of several chosen sums
    index = halves.permute(2, 0, 1, 3).long()
    scores_gradient.scatter_add_(-1, index, of_sums.transpose(0, 1)[:, None].expand(index.shape))
    return scores_gradient, None


_product_key_top_k.register_autograd(_backward, setup_context=_save)
