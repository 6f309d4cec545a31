"""Positions moved apart."""

from collections.abc import Sequence


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least ``gap`` apart, in the same order, together as near as can be to where they were wanted.

    Less than ``gap`` apart only where they would not fit between ``low`` and ``high`` otherwise.
    Pooling those that collide is the least-squares answer (pool adjacent violators).
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []  # mean of the wanted positions less their place in the stack, how many
    for place, i in enumerate(order):
        mean, count = wanted[i] - gap * place, 1
        while pools and pools[-1][0] > mean:
            last, weight = pools.pop()
            mean, count = (last * weight + mean * count) / (weight + count), weight + count
        pools.append((mean, count))
    last_base = high - gap * (len(wanted) - 1)
    bases = [min(max(mean, low), last_base) for mean, count in pools for _ in range(count)]
    placed = [0.0] * len(wanted)
    for place, i in enumerate(order):
        placed[i] = bases[place] + gap * place
    return placed
