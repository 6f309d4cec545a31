"""Product-key top-k in one kernel: both halves' best k, the best of their pairs, and the softmax.

A program serves one head of one token. It reads both lists of scores once; nothing is written but the
result. Each selection is exact, ties included, because what is compared are integers that hold a
score's bits and, below them, its place.

Long lists are cut into neighbourhoods: the best k lie in those with the k largest maxima (as in
``layers.kernels.top_k``), so some sqrt(n·k) keys are sorted rather than n. Of a list that a program holds at once the
maxima, of 32 bits, are only compared until the k-th is known; those that reach it are found by counting.

Letters: B tokens, H heads, n sub-keys a half, k wanted, C candidate pairs.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (Triton compiles the kernels itself; its annotations are not meant for a type checker.)

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from membench.layers.kernels.triton.bitonic import join, kth_largest, log2, sort_pairs, top
from membench.layers.kernels.triton.launch import launch
from membench.layers.kernels.triton.ordered_keys import NO_KEY, keys_of, order_of, ordered, places_of, scores_of
from membench.layers.spec.retrieval import candidate_pairs

# Few warps: within one, keys change places by shuffles, and fewer of them the more a thread holds.
_SCORES_A_TILE = 4096
_GROUPS_A_WARP = 1024  # 32 registers a thread, or 64 where whole keys change places
_SCORES_A_WARP = 4096  # 128 registers a thread, of which a fourth or less remain when the maxima are known
_PAIRS_A_WARP = 256  # of two 64-bit numbers: as many

_NAN_SUM = tl.constexpr(2**63 - 1)


def product_key_top_k(scores: Tensor, top_k: int, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``layers.kernels.top_k.product_key_top_k``; sums are formed and compared in fp64."""
    heads, _, tokens, sub_keys = scores.shape
    halves = torch.empty(2, tokens, heads, top_k, dtype=torch.int32, device=scores.device)
    weights = torch.empty(tokens, heads, top_k, dtype=torch.float32, device=scores.device)
    listed = triton.next_power_of_2(top_k)
    neighbours = _neighbours(sub_keys, listed)
    groups = triton.next_power_of_2(triton.cdiv(sub_keys, neighbours))
    groups = max(listed, min(groups, _SCORES_A_TILE // neighbours))
    candidates = _candidates(top_k, scores.device)
    launch(
        scores,
        _product_key_top_k,
        (tokens * heads,),
        scores.float().contiguous(),
        None if scales is None else scales.contiguous(),
        candidates,
        halves,
        weights,
        tokens,
        HEADS=heads,
        SUB_KEYS=sub_keys,
        TOP_K=top_k,
        LISTED=listed,
        NEIGHBOURS=neighbours,
        GROUPS=groups,
        CANDIDATES=candidates.shape[1],
        num_warps=_warps(groups, neighbours, candidates.shape[1]),
    )
    return halves, weights


def scores_gradient(
    halves: Tensor, of_sums: Tensor, sub_keys: int, scales: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """As ``layers.kernels.top_k.scores_gradient``, by a program for each list of scores; the same bits every time."""
    _, tokens, heads, top_k = halves.shape
    gradient = of_sums.new_zeros(heads, 2, tokens, sub_keys, dtype=dtype)
    listed = triton.next_power_of_2(top_k)
    if gradient.numel():
        constants = {"HEADS": heads, "SUB_KEYS": sub_keys, "TOP_K": top_k, "LISTED": listed}
        arguments = (halves.contiguous(), of_sums, scales, gradient, tokens)
        warps = _warps(0, 0, listed)
        launch(of_sums, _scores_gradient, (2 * tokens * heads,), *arguments, **constants, num_warps=warps)
    return gradient


def _neighbours(sub_keys: int, listed: int) -> int:
    """The power of two next below sqrt(n/k), for which n/s + k·s is least; 1 for lists too short to gain by it."""
    return 2 ** (int(math.log2(sub_keys / listed)) // 2) if sub_keys >= 8 * listed else 1


def _warps(groups: int, neighbours: int, pairs: int) -> int:
    scores = groups * neighbours
    return max(1, min(8, max(groups // _GROUPS_A_WARP, scores // _SCORES_A_WARP, pairs // _PAIRS_A_WARP)))


@cache
def _candidates(top_k: int, device: torch.device) -> Tensor:
    """(2, C) int32 the pairs that can be among the best k, filled up to a power of two by (-1, 0)."""
    pairs = candidate_pairs(top_k)
    pairs += [(-1, 0)] * (triton.next_power_of_2(len(pairs)) - len(pairs))
    return torch.tensor(pairs, dtype=torch.int32, device=device).T.contiguous()


@triton.jit(do_not_specialize=["tokens"])
def _product_key_top_k(
    scores: tl.tensor,
    scales: tl.tensor,
    candidates: tl.tensor,
    halves: tl.tensor,
    weights: tl.tensor,
    tokens: tl.tensor,
    HEADS: tl.constexpr,
    SUB_KEYS: tl.constexpr,
    TOP_K: tl.constexpr,
    LISTED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    GROUPS: tl.constexpr,
    CANDIDATES: tl.constexpr,
) -> None:
    program = tl.program_id(0).to(tl.int64)  # b·H + h
    half = scores + (program % HEADS * 2 * tokens + program // HEADS) * SUB_KEYS
    other_half = half + tokens.to(tl.int64) * SUB_KEYS
    of_first, of_second = scales, scales
    if scales is not None:
        of_first = scales + program % HEADS * 2 * SUB_KEYS
        of_second = of_first + SUB_KEYS
    first = _best_of_half(half, of_first, SUB_KEYS, LISTED, NEIGHBOURS, GROUPS)
    second = _best_of_half(other_half, of_second, SUB_KEYS, LISTED, NEIGHBOURS, GROUPS)

    order, rows = sort_pairs(*_pairs(first, second, candidates, CANDIDATES, SUB_KEYS))
    rank = tl.arange(0, CANDIDATES)
    wanted = rank < TOP_K
    sums = ordered(order, 63).to(tl.float64, bitcast=True).to(tl.float32)
    exponentials = tl.exp(tl.where(wanted, sums - tl.max(sums, 0), float("-inf")))
    place = program * TOP_K + rank
    tl.store(weights + place, exponentials / tl.sum(exponentials, 0), mask=wanted)
    tl.store(halves + place, (rows // SUB_KEYS).to(tl.int32), mask=wanted)
    tl.store(halves + tl.num_programs(0).to(tl.int64) * TOP_K + place, (rows % SUB_KEYS).to(tl.int32), mask=wanted)


@triton.jit(do_not_specialize=["tokens"])
def _scores_gradient(
    halves: tl.tensor,
    of_sums: tl.tensor,
    scales: tl.tensor,
    gradient: tl.tensor,
    tokens: tl.tensor,
    HEADS: tl.constexpr,
    SUB_KEYS: tl.constexpr,
    TOP_K: tl.constexpr,
    LISTED: tl.constexpr,
) -> None:
    """A sub-key may be part of several chosen sums: the first of them writes the sum of their gradients."""
    program = tl.program_id(0).to(tl.int64)  # (half·B + b)·H + h
    half, pair = program // (tokens * HEADS), program % (tokens * HEADS)
    rank = tl.arange(0, LISTED)
    place = tl.load(halves + program * TOP_K + rank, mask=rank < TOP_K, other=-1)
    total = tl.zeros([LISTED], tl.float32)
    repeated = tl.zeros([LISTED], tl.int32)
    for other in range(TOP_K):
        same = place == tl.load(halves + program * TOP_K + other)
        total += tl.where(same, tl.load(of_sums + pair * TOP_K + other), 0.0)
        repeated += (same & (other < rank)).to(tl.int32)
    of_half, first = pair % HEADS * 2 + half, (rank < TOP_K) & (repeated == 0)
    if scales is not None:
        total *= tl.load(scales + of_half * SUB_KEYS + place, mask=first, other=0.0)
    tl.store(gradient + (of_half * tokens + pair // HEADS) * SUB_KEYS + place, total, mask=first)


@triton.jit
def _best_of_half(
    scores: tl.tensor,
    scales: tl.tensor,
    SUB_KEYS: tl.constexpr,
    LISTED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    GROUPS: tl.constexpr,
) -> tl.tensor:
    """(k,) keys of the best of so many scores from this pointer on, best first."""
    if NEIGHBOURS > 1 and GROUPS * NEIGHBOURS >= SUB_KEYS:
        groups = _groups_in_order(scores, scales, SUB_KEYS, LISTED, NEIGHBOURS, GROUPS)
        return _best_among(scores, scales, groups, SUB_KEYS, LISTED, NEIGHBOURS)
    best = _best_groups(scores, scales, 0, SUB_KEYS, LISTED, NEIGHBOURS, GROUPS, True)
    for first in range(GROUPS, tl.cdiv(SUB_KEYS, NEIGHBOURS), GROUPS):
        best = join(best, _best_groups(scores, scales, first, SUB_KEYS, LISTED, NEIGHBOURS, GROUPS, False))
    if NEIGHBOURS > 1:
        best = _best_among(scores, scales, places_of(best), SUB_KEYS, LISTED, NEIGHBOURS)
    return best


@triton.jit
def _best_among(
    scores: tl.tensor,
    scales: tl.tensor,
    groups: tl.tensor,
    SUB_KEYS: tl.constexpr,
    LISTED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
) -> tl.tensor:
    """(k,) keys of the best scores in neighbourhoods (k,), best first."""
    place = groups[:, None] * NEIGHBOURS + tl.arange(0, NEIGHBOURS)[None, :]
    keys = keys_of(order_of(_scaled(scores, scales, place, SUB_KEYS)), place)  # cached: read a moment ago
    return top(tl.reshape(tl.where(place < SUB_KEYS, keys, NO_KEY), [LISTED * NEIGHBOURS]), LISTED, True)


@triton.jit
def _groups_in_order(
    scores: tl.tensor,
    scales: tl.tensor,
    SUB_KEYS: tl.constexpr,
    LISTED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    GROUPS: tl.constexpr,
) -> tl.tensor:
    """(k,) the neighbourhoods with the largest maxima, of equal ones the first, in the order in which they lie.

    That none is before a better one spares the exchange of places: only maxima, of 32 bits, are compared until the k-th
    is known, and those that reach it are then found by counting.
    """
    group, rank = tl.arange(0, GROUPS), tl.arange(0, LISTED)
    maxima = _maxima(scores, scales, group, SUB_KEYS, NEIGHBOURS)
    maxima = tl.where(group * NEIGHBOURS < SUB_KEYS, maxima, -(2**31))
    least = kth_largest(maxima, LISTED)
    better, level = (maxima > least).to(tl.int32), (maxima == least).to(tl.int32)
    chosen = better | (level & (tl.cumsum(level, 0) <= LISTED - tl.sum(better, 0)).to(tl.int32))
    counted = tl.cumsum(chosen, 0)
    found = tl.zeros([LISTED], tl.int32)  # how many neighbourhoods lie before the rank-th chosen one
    for bit in tl.static_range(log2(GROUPS)):
        further = found + (GROUPS >> (bit + 1))
        found = tl.where(tl.gather(counted, further - 1, 0) <= rank, further, found)
    return found


@triton.jit
def _best_groups(
    scores: tl.tensor,
    scales: tl.tensor,
    first: tl.tensor,
    SUB_KEYS: tl.constexpr,
    LISTED: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    GROUPS: tl.constexpr,
    DESCENDING: tl.constexpr,
) -> tl.tensor:
    """(k,) keys of the neighbourhoods, of so many from the first, with the largest maxima."""
    group = first + tl.arange(0, GROUPS)
    maxima = _maxima(scores, scales, group, SUB_KEYS, NEIGHBOURS)
    return top(tl.where(group * NEIGHBOURS < SUB_KEYS, keys_of(maxima, group), NO_KEY), LISTED, DESCENDING)


@triton.jit
def _maxima(
    scores: tl.tensor, scales: tl.tensor, group: tl.tensor, SUB_KEYS: tl.constexpr, NEIGHBOURS: tl.constexpr
) -> tl.tensor:
    """Of each neighbourhood, as ``order_of`` has them: a maximum of floats passes over NaN."""
    place = group[:, None] * NEIGHBOURS + tl.arange(0, NEIGHBOURS)[None, :]
    return tl.max(order_of(_scaled(scores, scales, place, SUB_KEYS)), 1)


@triton.jit
def _scaled(scores: tl.tensor, scales: tl.tensor, place: tl.tensor, SUB_KEYS: tl.constexpr) -> tl.tensor:
    """Scores at these places, times the scales there if there are any; the least past the last."""
    found = tl.load(scores + place, mask=place < SUB_KEYS, other=float("-inf"))
    if scales is not None:
        found *= tl.load(scales + place, mask=place < SUB_KEYS, other=1.0)
    return found


@triton.jit
def _pairs(
    first: tl.tensor, second: tl.tensor, candidates: tl.tensor, CANDIDATES: tl.constexpr, SUB_KEYS: tl.constexpr
) -> tl.tensor:
    """(C,) integers that order as the candidates' sums, and their rows."""
    pair = candidates + tl.arange(0, CANDIDATES)
    rank = tl.load(pair)
    i = tl.gather(first, tl.maximum(rank, 0), 0)
    j = tl.gather(second, tl.load(pair + CANDIDATES), 0)
    sums = scores_of(i).to(tl.float64) + scores_of(j).to(tl.float64)
    order = tl.where(sums == sums, ordered(sums.to(tl.int64, bitcast=True), 63), _NAN_SUM)
    return tl.where(rank >= 0, order, NO_KEY), places_of(i) * SUB_KEYS + places_of(j)
