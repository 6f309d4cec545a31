"""Scores of queries against product keys, in fp32 whatever the keys' dtype.

Many scores would be equal if they were rounded to 16 bits. Products of 16-bit numbers are exact in fp32, so converting
the keys to fp32 gives the same result as a 16-bit matrix product that accumulates in fp32, as a GPU multiplies bf16
keys (``wide_products``). A CPU without a kernel that widens bf16 keys in registers converts the halves of a few heads
at a time, so that they stay in its caches. The keys' norms are taken by one kernel where there is one: of one token's
scores torch's calls for them were four fifths.

A normalized score is s = r·(q·k) with r = 1/rms(k). r multiplies the scores and not the keys, so normalized keys are
never formed. On a GPU scores are not written a second time either: the choice among them multiplies what it reads. The
gradient by k is r·ds·q - k·(r²/c)·ds·s. Summed over tokens, with g the sum of r·ds·q, that is g - k·(r²/c)·(k·g): no
score is needed.

Letters: B tokens, H heads, n sub-keys a half, c = dk/2 columns of a half, k rows a head chooses.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from membench.layers.kernels import rms_norm as norms
from membench.layers.kernels import wide_products
from membench.layers.kernels.checks import check_at_most_fp32, check_fp32
from membench.layers.kernels.matmul import linear_into
from membench.layers.kernels.native import few_scores
from membench.layers.kernels.native import grouped_matmul as native
from membench.layers.kernels.paths import path_of
from membench.layers.kernels.precision import computed_as_given, wants_gradient
from membench.layers.kernels.uncompiled import custom_op

_CACHED_ELEMENTS = 2**19


def normalized_queries(halves: Tensor, scale: Tensor, other: Tensor, keys: Tensor, *, eps: float) -> Tensor:
    """(B, H, 2, c) fp32 of halves (B, H, 2, c): each over its root mean square, times scale∘other (2, c).

    Where bf16 products alone multiply them by such keys, and no gradient needs them, theirs or the keys': their three
    parts (B, H, 2, 3c), which would be written and read once more.
    """
    rows = halves.reshape(-1, halves.shape[-1])
    if wide_products.can_multiply(keys) and not wants_gradient(keys):
        parts = norms.rms_norm_in_parts(rows, scale, other, eps)
        if parts is not None:
            return parts.view(*halves.shape[:3], -1)
    return norms.rms_norm_scaled_twice(rows, scale, other, eps).view(halves.shape)


def key_scores(queries: Tensor, keys: Tensor, *, normalized: bool, eps: float) -> Tensor:
    """(H, 2, B, n) fp32 scores of queries (B, H, 2, c), fp32 or like keys, and keys (H, 2, n, c). Differentiable.

    Args:
        queries: or in parts, as of ``normalized_queries``.
        normalized: divide each sub-key by its root mean square, sqrt(mean k² + eps).

    Raises:
        ValueError: queries have another dtype, or keys are wider than fp32.
    """
    return scores_with_scales(queries, keys, normalized=normalized, eps=eps)[0]


def scores_with_scales(queries: Tensor, keys: Tensor, *, normalized: bool, eps: float) -> tuple[Tensor, Tensor]:
    """``key_scores``, and r (H, 2, 1, n), which is empty where nothing is normalized."""
    check_at_most_fp32("keys", keys)
    if queries.dtype != keys.dtype:
        check_fp32("queries", queries)
    return _key_scores(queries, keys, normalized, eps)


def are_scaled_when_chosen(keys: Tensor) -> bool:
    """Whether ``products_with_scales`` are what is to be chosen from, and not scores; never where a compiler looks."""
    return not torch.compiler.is_compiling() and path_of(keys) == "triton" and norms.have_kernel(keys)


def products_with_scales(queries: Tensor, keys: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """(H, 2, B, n) q·k and (H, 2, 1, n) r, whose product are normalized scores. Not differentiable by way of r.

    For keys that ``are_scaled_when_chosen``.
    """
    products, _ = scores_with_scales(queries, keys, normalized=False, eps=eps)
    return products, _scales(keys, eps)


def _scales(keys: Tensor, eps: float) -> Tensor:
    """r (H, 2, 1, n) by a kernel."""
    heads, _, count, columns = keys.shape
    return norms.inverse_rms(keys.reshape(-1, columns), eps).view(heads, 2, 1, count)


@custom_op("membench::key_scores")
@computed_as_given
def _key_scores(queries: Tensor, keys: Tensor, normalized: bool, eps: float) -> tuple[Tensor, Tensor]:
    by_matrix_units = wide_products.can_multiply(keys)
    queries = queries if by_matrix_units else queries.float()
    if few_scores.is_best_for(queries, keys):
        return few_scores.key_scores(queries, keys, normalized=normalized, eps=eps)
    (heads, _, count, columns), tokens = keys.shape, queries.shape[0]
    fp32: dict[str, Any] = {"dtype": torch.float32, "device": keys.device}
    inverse_rms = torch.empty((heads, 2, 1, count) if normalized else 0, **fp32)
    of_half = queries.reshape(tokens, 2 * heads, queries.shape[-1]).transpose(0, 1)
    halves = keys.view(2 * heads, count, columns)
    by_native = not by_matrix_units and halves.is_contiguous() and native.is_best_for(halves)
    if by_native:
        ends = torch.arange(1, 2 * heads + 1, dtype=torch.int32) * tokens
        scores = native.grouped_linear(of_half.reshape(-1, columns), halves, ends).view(heads, 2, tokens, count)
    elif by_matrix_units:
        scores = wide_products.wide_product(of_half, halves).view(heads, 2, tokens, count)
    else:
        scores = torch.empty(heads, 2, tokens, count, **fp32)
    multiplied = by_native or by_matrix_units
    scales_by_kernel = normalized and norms.have_kernel(keys)
    if scales_by_kernel:
        inverse_rms = _scales(keys, eps)
    for part in () if multiplied and (scales_by_kernel or not normalized) else _parts(keys):
        widened = halves[part].float()
        if not multiplied:
            _multiply_into(scores.view(2 * heads, tokens, count)[part], of_half[part], widened)
        if normalized and not scales_by_kernel:
            mean_square = torch.linalg.vector_norm(widened, dim=-1).square() / columns
            inverse_rms.view(2 * heads, count)[part] = torch.rsqrt(mean_square + eps)
    if normalized:
        scores *= inverse_rms
    return scores, inverse_rms


def _parts(keys: Tensor) -> list[slice]:
    """Of all heads' halves (2H): on a CPU as many at a time as stay in its caches when they are widened, else all."""
    heads, _, count, columns = keys.shape
    halves = max(1, _CACHED_ELEMENTS // (count * columns)) if keys.device.type == "cpu" else 2 * heads
    return [slice(first, first + halves) for first in range(0, 2 * heads, halves)]


def _multiply_into(scores: Tensor, queries: Tensor, keys: Tensor) -> None:
    """Some halves (S, B, n) of (S, B, c) and (S, n, c): a large one by itself, which libraries do in parallel."""
    if len(keys) == 1:
        linear_into(scores[0], queries[0], keys[0])
    else:
        torch.bmm(queries, keys.transpose(1, 2), out=scores)


@_key_scores.register_fake
def _(queries: Tensor, keys: Tensor, normalized: bool, eps: float) -> tuple[Tensor, Tensor]:
    del eps
    heads, _, count, _ = keys.shape
    scores = keys.new_empty((heads, 2, queries.shape[0], count), dtype=torch.float32)
    return scores, keys.new_empty((heads, 2, 1, count) if normalized else 0, dtype=torch.float32)


def gradient_dtype(keys: Tensor) -> torch.dtype:
    """Of the products' gradients: bf16 has the range of fp32, so they may be rounded to it before a product."""
    return torch.bfloat16 if keys.dtype == torch.bfloat16 else torch.float32


def products_backward(
    dproducts: Tensor, queries: Tensor, keys: Tensor, inverse_rms: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of queries and keys that are wanted, in their dtypes.

    Args:
        dproducts: those of q·k (H, 2, B, n), r·ds, of ``gradient_dtype``.
    """
    key = keys.to(dproducts.dtype)
    dqueries = dkeys = None
    if wanted[0]:
        dqueries = (dproducts @ key).permute(2, 0, 1, 3).to(queries.dtype)
    if wanted[1]:
        along_queries = dproducts.transpose(-1, -2) @ queries.permute(1, 2, 0, 3).to(key.dtype)
        dkeys = across_keys(along_queries.flatten(0, 2), keys.flatten(0, 2), inverse_rms).view(keys.shape)
    return dqueries, dkeys


def across_keys(gradient: Tensor, keys: Tensor, inverse_rms: Tensor) -> Tensor:
    """Of keys (H·2·n, c), in their dtype: g, the gradient of keys as multiplied, without what a norm takes of it.

    Args:
        gradient: (H·2·n, c), overwritten.
        inverse_rms: (H, 2, 1, n), empty where keys are not normalized.
    """
    if inverse_rms.numel():
        if are_scaled_when_chosen(keys):
            return norms.across_rows(gradient, keys, inverse_rms.flatten())
        along = torch.linalg.vecdot(keys.float(), gradient.float()) * inverse_rms.flatten().square() / keys.shape[1]
        gradient.addcmul_(keys.to(gradient.dtype), along[:, None].to(gradient.dtype), value=-1)
    return gradient.to(keys.dtype)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, bool, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.mark_non_differentiable(output[1])


@computed_as_given
def _backward(ctx: Any, dscores: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    queries, keys, inverse_rms = ctx.saved_tensors
    dproducts = (dscores * inverse_rms if inverse_rms.numel() else dscores).to(gradient_dtype(keys))
    of_queries, of_keys = ctx.needs_input_grad[:2]
    return *products_backward(dproducts, queries, keys, inverse_rms, (of_queries, of_keys)), None, None


_key_scores.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.membench.key_scores)
def _flops(queries: Any, keys: Any, *arguments: Any, out_shape: Any = None, **others: Any) -> int:
    del arguments, out_shape, others
    heads, halves, count, columns = keys
    return 2 * queries[0] * heads * halves * count * columns
