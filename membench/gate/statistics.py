"""Distribution-free estimates of how much slower the head is, from rounds. Exact at small numbers.

A replicate is a round (a fresh process), never an iteration within one: iterations of a process
share its memory layout and its moment, and thousands of them say no more about the next process.

Effects are log ratios: ``ln(head / base)``, so that twice as slow and twice as fast weigh the same.
Letters: R rounds a side, m and n rounds of two sides that are not paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

CONFIDENCE = 0.99
_RESAMPLES = 10_000
_SEED = 20241212


@dataclass(frozen=True, slots=True)
class Estimate:
    """An effect with its interval at ``confidence``, from ``rounds`` replicates on the smaller side.

    ``low`` and ``high`` are None where so few rounds allow no interval at that confidence.
    """

    effect: float
    low: float | None
    high: float | None
    p: float
    rounds: int
    method: str
    confidence: float


_EXACT_ROUNDS = 100  # counts of longer series would take seconds, and a hundred rounds say what there is to say


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most ``_EXACT_ROUNDS`` of them, evenly spread over the series."""
    if len(values) <= _EXACT_ROUNDS:
        return values
    return values[np.linspace(0, len(values) - 1, _EXACT_ROUNDS).astype(int)]


@cache
def signed_rank_counts(rounds: int) -> tuple[int, ...]:
    """How many of the 2^R sign patterns give each value 0 … R(R+1)/2 of the signed-rank statistic."""
    counts = [1]
    for rank in range(1, rounds + 1):
        shifted = [0] * rank + counts
        counts = [a + b for a, b in zip(counts + [0] * rank, shifted, strict=True)]
    return tuple(counts)


@cache
def rank_sum_counts(m: int, n: int) -> tuple[int, ...]:
    """How many of the C(m+n, m) orders give each value 0 … mn of the Mann–Whitney statistic.

    The coefficients of the Gaussian binomial: prod (1 - q^(n+i)) / (1 - q^i), i = 1 … m.
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    return tuple(counts)


def _tail(counts: Sequence[int], statistic: float) -> float:
    """P(S <= statistic)."""
    return sum(counts[: math.floor(statistic) + 1]) / sum(counts)


def _depth(counts: Sequence[int], confidence: float) -> int:
    """How many of the ordered pairwise effects lie outside the interval on each side; 0: no interval."""
    alpha, total = (1 - confidence) / 2, sum(counts)
    mass = depth = 0
    for count in counts:
        mass += count
        if mass / total > alpha:
            return depth
        depth += 1
    return depth


def _interval(pairwise: np.ndarray, depth: int) -> tuple[float, float, float]:
    """(median, low, high) of sorted pairwise effects; low and high are NaN where depth is 0."""
    ordered = np.sort(pairwise)
    if not depth:
        return float(np.median(ordered)), math.nan, math.nan
    return float(np.median(ordered)), float(ordered[depth - 1]), float(ordered[-depth])


def paired(effects: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Hodges–Lehmann estimate of R paired effects with the exact signed-rank interval.

    The estimate is the median of the R(R+1)/2 Walsh averages (d_i + d_j) / 2, the interval the
    averages between which the Wilcoxon signed-rank test does not reject.
    """
    d = _thinned(np.asarray(effects, dtype=float))
    rounds = len(d)
    i, j = np.triu_indices(rounds)
    counts = signed_rank_counts(rounds)
    effect, low, high = _interval((d[i] + d[j]) / 2, _depth(counts, confidence))
    walsh = (d[i] + d[j]) / 2
    smaller = min(np.sum(walsh > 0) + np.sum(walsh == 0) / 2, np.sum(walsh < 0) + np.sum(walsh == 0) / 2)
    p = min(1.0, 2 * _tail(counts, float(smaller)))
    return Estimate(effect, _known(low), _known(high), p, rounds, "paired rounds, signed-rank", confidence)


def unpaired(base: Sequence[float], head: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Hodges–Lehmann shift of the logs of two sides' rounds with the exact Mann–Whitney interval.

    The estimate is the median of all mn differences ln(head_j) - ln(base_i).
    """
    a, b = (_thinned(np.log(np.asarray(side, dtype=float))) for side in (base, head))
    differences = (b[:, None] - a[None, :]).ravel()
    counts = rank_sum_counts(len(a), len(b))
    effect, low, high = _interval(differences, _depth(counts, confidence))
    ties = np.sum(differences == 0) / 2
    smaller = min(np.sum(differences > 0) + ties, np.sum(differences < 0) + ties)
    p = min(1.0, 2 * _tail(counts, float(smaller)))
    rounds = min(len(a), len(b))
    return Estimate(effect, _known(low), _known(high), p, rounds, "unpaired rounds, Mann–Whitney", confidence)


@cache
def _middles(rounds: int, stream: int) -> np.ndarray:
    """(resamples, 2) ranks of the two middle values of each resample: of sorted values these make its median."""
    draws = np.sort(np.random.default_rng(_SEED + stream).integers(rounds, size=(_RESAMPLES, rounds)), axis=1)
    return draws[:, [(rounds - 1) // 2, rounds // 2]]


def _resampled_medians(values: Sequence[float], stream: int) -> np.ndarray:
    ordered = np.sort(np.log(np.asarray(values, dtype=float)))
    return ordered[_middles(len(ordered), stream)].mean(axis=1)


def bootstrap_interval(
    base: Sequence[float], head: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile interval of ln(median head / median base), whole rounds drawn again with a fixed seed.

    A second opinion beside ``unpaired``: at few rounds it is too narrow (99 % covers about 97 %
    at ten), so it may only ever confirm.
    """
    ratios = _resampled_medians(head, 1) - _resampled_medians(base, 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def fewest_paired_rounds(confidence: float = CONFIDENCE) -> int:
    """R from which a paired comparison can decide anything: 2 / 2^R must not exceed 1 - confidence."""
    return math.ceil(1 - math.log2(1 - confidence))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
