"""Latency by size, from measured points: it rises, and between them it is a line in log-log."""

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from statistics import median

ROUNDING = 1e-9  # of logarithms taken and undone


def rising(measured: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Sorted, one latency a size, and rising: sizes that fall back are pooled with those before.

    Pooling adjacent violators is the least-squares monotone fit (in the logarithm).
    """
    by_size: dict[float, list[float]] = defaultdict(list)
    for size, latency_ms in measured:
        by_size[size].append(math.log(latency_ms))
    pools: list[tuple[float, int]] = []  # mean log latency, sizes pooled
    for size in sorted(by_size):
        mean, count = median(by_size[size]), 1
        while pools and pools[-1][0] >= mean:
            last, weight = pools.pop()
            mean, count = (last * weight + mean * count) / (weight + count), weight + count
        pools.append((mean, count))
    latencies = [math.exp(mean) for mean, count in pools for _ in range(count)]
    return list(zip(sorted(by_size), latencies, strict=True))


def interpolated(points: list[tuple[float, float]], x: float) -> float:
    """y at x, along straight lines in log-log; the larger y where several points share an x."""
    nearest = max((point for point in points if point[0] <= x), default=points[0])
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1 and x0 < x1 and x > nearest[0]:
            share = math.log(x / x0) / math.log(x1 / x0)
            return math.exp(math.log(y0) + share * math.log(y1 / y0))
    return nearest[1]
