"""Exact top-k with a defined order of ties, and the best pairs of two score lists, by torch's own calls.

Letters: B tokens, H heads, n sub-keys a half, k wanted, C candidate pairs, m any length.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from membench.layers.spec.retrieval import candidate_pairs


def ordered_top_k(values: Tensor, top_k: int, order: Tensor | None = None) -> Tensor:
    """(…, k) indices of the best of values (…, m), best first; equal values by the lower ``order``.

    ``torch.topk`` leaves the order of equal values open, and which of them it takes. They are
    rare in fp32 scores, so it goes first and lists with a tie among the best k + 1 are sorted again.

    Args:
        order: (…, m) distinct integers; the index itself if None.
    """
    if values.device.type != "cpu":  # asking whether there is a tie would make the host wait for the device
        return _stable_top_k(values, top_k, order)
    found, indices = values.topk(min(top_k + 1, values.shape[-1]), dim=-1)
    tied = (found[..., 1:] == found[..., :-1]).any(dim=-1)
    indices = indices[..., :top_k].contiguous()
    if tied.any():
        indices[tied] = _stable_top_k(values[tied], top_k, None if order is None else order[tied])
    return indices


def _stable_top_k(values: Tensor, top_k: int, order: Tensor | None) -> Tensor:
    by_order = None if order is None else order.argsort(dim=-1)
    arranged = values if by_order is None else values.gather(-1, by_order)
    best = arranged.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    return best if by_order is None else by_order.gather(-1, best)


def long_top_k(values: Tensor, top_k: int) -> Tensor:
    """(…, k) indices of the best of long lists (…, m), equal values by the lower index.

    The list is cut into neighbourhoods. The best k lie in the k neighbourhoods with the largest maxima, because these k
    maxima are better than any value in another neighbourhood. This also holds for ties, because neighbourhoods are
    contiguous. So two lists of about sqrt(m·k) values are searched instead of one of m.
    """
    size = _neighbourhood(values.shape[-1], top_k)
    if size == 1:
        return ordered_top_k(values, top_k)
    lists = values.reshape(-1, values.shape[-1])
    maxima = functional.max_pool1d(lists[:, None], size)[:, 0]
    chosen = ordered_top_k(maxima, top_k)
    base = torch.arange(len(lists), device=values.device)[:, None] * maxima.shape[1]
    inside = functional.embedding(chosen + base, lists.view(-1, size)).flatten(1)
    index = (chosen[:, :, None] * size + torch.arange(size, device=values.device)).flatten(1)
    best = index.gather(1, ordered_top_k(inside, top_k, index))
    return best.view(*values.shape[:-1], top_k)


def _neighbourhood(length: int, top_k: int) -> int:
    """The largest power of two up to sqrt(2m/k) that divides m; 1 for lists too short to gain by it."""
    size = 1
    while length >= 16 * top_k and length % (2 * size) == 0 and top_k * (2 * size) ** 2 <= 2 * length:
        size *= 2
    return size


@cache
def _candidates(top_k: int, device: torch.device) -> Tensor:
    """(2, C) the pairs as a tensor, copied to a device once."""
    return torch.tensor(candidate_pairs(top_k), device=device).T.contiguous()


def best_pairs(scores: Tensor, top_k: int) -> Tensor:
    """(H, 2, B, k) sub-keys (i, j) of the k best sums of both halves' scores (H, 2, B, n).

    Best first, equal sums by the lower row i·n + j. Sums of two fp32 numbers are formed in
    fp64: rounded to fp32, sums could tie outside the candidates. (Scores 2^29 times apart can tie in fp64 too.)
    """
    ranked = long_top_k(scores, top_k)
    values = scores.gather(-1, ranked).double()
    first, second = _candidates(top_k, scores.device)
    sums = values[:, 0][..., first] + values[:, 1][..., second]
    rows = ranked[:, 0][..., first] * scores.shape[-1] + ranked[:, 1][..., second]
    row = rows.gather(-1, ordered_top_k(sums, top_k, rows))
    return torch.stack([row // scores.shape[-1], row % scores.shape[-1]], dim=1)


def product_key_top_k(scores: Tensor, top_k: int, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``layers.kernels.top_k.product_key_top_k``."""
    scores = scores if scales is None else scores * scales
    pairs = best_pairs(scores, top_k)
    weights = torch.softmax(scores.gather(-1, pairs).sum(dim=1), dim=-1)
    return pairs.permute(1, 2, 0, 3).int().contiguous(), weights.transpose(0, 1).contiguous()


def scores_gradient(
    halves: Tensor, of_sums: Tensor, sub_keys: int, scales: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """As ``layers.kernels.top_k.scores_gradient``. On CUDA its additions are in any order."""
    index = halves.permute(2, 0, 1, 3).long()
    gradient = of_sums.new_zeros(*index.shape[:-1], sub_keys)
    gradient.scatter_add_(-1, index, of_sums.transpose(0, 1)[:, None].expand(index.shape))
    return (gradient if scales is None else gradient.mul_(scales)).to(dtype)
