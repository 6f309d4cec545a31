"""What routing is expected to touch before anything has run: unique rows, active experts, rank loads.

Pure arithmetic; a plan uses it. A measured record replaces it by exact counts.
"""

import math
import random
from bisect import bisect_right
from functools import lru_cache
from typing import Literal

RoutingKind = Literal["uniform", "zipf", "routed", "trace"]
ROUTINGS: tuple[RoutingKind, ...] = ("uniform", "zipf", "routed", "trace")

_EXACT_RANKS = 1024  # popularity ranks summed one by one; the tail in geometric buckets
_BUCKETS_PER_E = 64
_PLACED_EXPERTS = 2**13  # popular experts placed on ranks one by one; rarer ones count as even


def _zipf_buckets(count: int, exponent: float) -> list[tuple[float, float]]:
    """(how many items, probability of each) with p_i ~ i^-exponent, summing to one."""
    head = min(count, _EXACT_RANKS)
    buckets = [(1.0, i**-exponent) for i in range(1, head + 1)]
    low = head + 0.5
    while low < count + 0.5:
        high = min(low * math.exp(1 / _BUCKETS_PER_E), count + 0.5)
        buckets.append((high - low, math.sqrt(low * high) ** -exponent))
        low = high
    total = sum(items * mass for items, mass in buckets)
    return [(items, mass / total) for items, mass in buckets]


@lru_cache(maxsize=256)
def expected_unique(count: int, draws: float, per_draw: int, exponent: float = 0.0) -> float:
    """Expected distinct items of ``count`` after ``draws`` draws of ``per_draw`` distinct items each.

    Equally likely items (exponent 0): count·(1 - (1 - k/count)^draws), exact for subsets
    drawn at random. Zipf: the sum over items of 1 - (1 - p)^(draws·k), p ~ rank^-exponent;
    that the k of one draw are distinct is neglected.
    """
    if draws <= 0 or count <= 0:
        return 0.0
    if exponent == 0.0:
        if per_draw >= count:
            return float(count)
        return -count * math.expm1(draws * math.log1p(-per_draw / count))
    lookups = draws * per_draw
    unique = 0.0
    for items, p in _zipf_buckets(count, exponent):
        unique += items * (1.0 if p >= 1 else -math.expm1(lookups * math.log1p(-p)))
    return min(unique, float(count), lookups)


@lru_cache(maxsize=256)
def expected_rank_share(num_experts: int, ranks: int, top_k: int, exponent: float = 0.0) -> float:
    """The mean share of all assignments that goes to the rank with the likeliest experts.

    Ranks hold floor(E/P) or ceil(E/P) experts. Equally likely experts: ceil(E/P) of E. Zipf:
    the busiest rank under one fixed random placement of experts, with an expert's chance of
    being among a token's top K taken as min(1, K·p).
    """
    if exponent == 0.0 or ranks == 1:
        return -(-num_experts // ranks) / num_experts
    placed = min(num_experts, _PLACED_EXPERTS)
    mass = [i**-exponent for i in range(1, placed + 1)]
    rare = _power_sum(placed + 0.5, num_experts + 0.5, exponent)
    total = sum(mass) + rare
    chosen = [min(1.0, top_k * m / total) for m in mass]
    even = top_k * rare / total / ranks
    loads, bounds = [even] * ranks, rank_bounds(num_experts, ranks)
    for place, share in zip(_places(num_experts), chosen, strict=True):
        loads[bisect_right(bounds, place) - 1] += share
    return max(loads) / (sum(chosen) + even * ranks)


def rank_bounds(num_experts: int, ranks: int) -> list[int]:
    """Rank r holds the experts from bounds[r] up to bounds[r + 1]: floor(E/P) or ceil(E/P) of them."""
    return [rank * num_experts // ranks for rank in range(ranks + 1)]


def expected_busiest_load(mean_load: float, ranks: int) -> float:
    """Assignments of the most loaded of P ranks with equal chances: m + sqrt(2 m ln P).

    The usual bound on the maximum of P nearly Gaussian counts of variance m.
    """
    return mean_load + math.sqrt(2 * mean_load * math.log(ranks))


@lru_cache(maxsize=16)
def _places(num_experts: int) -> list[int]:
    """Where the most popular experts are, the most popular first, in one fixed random placement of all."""
    order = list(range(num_experts))
    random.Random(num_experts).shuffle(order)
    places = {popularity: place for place, popularity in enumerate(order) if popularity < _PLACED_EXPERTS}
    return [places[popularity] for popularity in range(len(places))]


def _power_sum(low: float, high: float, exponent: float) -> float:
    """The integral of x^-exponent, what the sum over many ranks comes to."""
    if exponent == 1.0:
        return math.log(high / low)
    return (high ** (1 - exponent) - low ** (1 - exponent)) / (1 - exponent)
