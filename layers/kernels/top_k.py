"""The best k of the n² sums that two halves' scores make, with their softmax weights (arXiv 1907.05242, section 3.1).

The best k sums lie among the pairs (i, j) of both halves' best k with (i+1)(j+1) <= k, counted from 0 in
sorted order: 119 pairs at k = 32. Selection is exact, ties included: equal sums go to the lower row i·n + j.

Letters: H heads, B tokens, n sub-keys a half, k rows a head.
"""

from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.checks import check_fp32, check_shape
from membench.layers.kernels.paths import implementation, on_gpu
from membench.layers.kernels.precision import computed_as_given
from membench.layers.kernels.uncompiled import custom_op


def product_key_top_k(scores: Tensor, top_k: int, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The choice of both halves' scores (H, 2, B, n), fp32. Differentiable by the weights.

    Args:
        scales: what each sub-key's score is multiplied by first, (H, 2, 1, n) fp32; they have no gradient.

    Returns:
        sub-keys i and j of the chosen rows i·n + j (2, B, H, k) int32, best first; and the softmax (B, H, k)
        fp32 of their sums.

    Raises:
        ValueError: k is above n or below 1, or the scores or scales have another shape or dtype.
    """
    check_shape("scores", scores, (None, 2, None, None), "(H, 2, B, n)")
    check_fp32("scores", scores)
    if not 1 <= top_k <= scores.shape[-1]:
        raise ValueError(f"top_k {top_k} of {scores.shape[-1]} sub-keys a half: each offers at most all it has")
    if scales is not None:
        check_shape("scales", scales, (scores.shape[0], 2, 1, scores.shape[-1]), "(H, 2, 1, n)")
        check_fp32("scales", scales)
    return _product_key_top_k(scores, top_k, scales)


def sums_gradient(weights: Tensor, gradient: Tensor) -> Tensor:
    """(B, H, k): the softmax's backward, the gradient of the chosen sums given that of their weights (B, H, k)."""
    if on_gpu(weights):
        return torch.ops.aten._softmax_backward_data(gradient, weights, -1, weights.dtype)
    weighted = weights * gradient
    return torch.addcmul(weighted, weights, weighted.sum(dim=-1, keepdim=True), value=-1)


@custom_op("membench::product_key_top_k")
@computed_as_given
def _product_key_top_k(scores: Tensor, top_k: int, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return implementation("top_k", scores).product_key_top_k(scores, top_k, scales)


@_product_key_top_k.register_fake
def _(scores: Tensor, top_k: int, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    del scales
    heads, _, tokens, _ = scores.shape
    halves = scores.new_empty(2, tokens, heads, top_k, dtype=torch.int32)
    return halves, scores.new_empty(tokens, heads, top_k)


@custom_op("membench::scores_gradient")
@computed_as_given
def scores_gradient(
    halves: Tensor, of_sums: Tensor, sub_keys: int, scales: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(H, 2, B, n): gradients of the chosen sums (B, H, k) added up where they were chosen, (2, B, H, k); else 0.

    Args:
        scales: what each sub-key's sum is multiplied by, (H, 2, 1, n) fp32.
        dtype: what it is rounded to, once.
    """
    return implementation("top_k", of_sums).scores_gradient(halves, of_sums.contiguous(), sub_keys, scales, dtype)


@scores_gradient.register_fake
def _(
    halves: Tensor, of_sums: Tensor, sub_keys: int, scales: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    del scales
    _, tokens, heads, _ = halves.shape
    return of_sums.new_empty(heads, 2, tokens, sub_keys, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Tensor, int, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    ctx.sub_keys = inputs[0].shape[-1]
    ctx.save_for_backward(*output, inputs[2])
    ctx.mark_non_differentiable(output[0])


@computed_as_given
def _backward(ctx: Any, _: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    halves, weights, scales = ctx.saved_tensors
    return scores_gradient(halves, sums_gradient(weights, gradient), ctx.sub_keys, scales), None, None


_product_key_top_k.register_autograd(_backward, setup_context=_save)
