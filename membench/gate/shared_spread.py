"""How much slower each of several cases is, where few rounds of one say little of its spread: all say it together.

Six rounds a side leave a rank test no room for one round out of line, and a t-test a poor guess of the spread. Cases
of one pair of runs were measured by the same instrument on the same machine, so their spreads are alike without being
equal. Each case's variance is drawn towards that of all, by as much as the variances' own spread says (the moderated
t-statistic of Smyth, doi 10.2202/1544-6115.1027). Rounds out of line are kept out by trimmed means (Yuen, doi
10.1093/biomet/61.1.165): of each side's rounds a sixth is left out at either end.

Letters: R rounds of a side, of which h are left after trimming.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from membench.gate.statistics import CONFIDENCE, Estimate

FEWEST_ROUNDS = 5  # of each side: fewer leave a case out
FEWEST_CASES = 5  # of which a spread can be said to be common
_TRIMMED = 6  # one of so many rounds at either end
_LEAST_VARIANCE = 1e-12  # of logs: equal times are no proof that none could differ
_MOST_FREEDOM = 1e6  # as good as infinite
METHOD = "trimmed means, spread shared with the other cases"

Sides = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class TrimmedSide:
    """A side's trimmed mean of logs, the variance of a round, and h."""

    mean: float
    variance: float
    kept: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "TrimmedSide":
        """Yuen's estimate: the winsorized variance, over the share of rounds that is left."""
        logs = np.sort(np.log(np.asarray(values, dtype=float)))
        cut = len(logs) // _TRIMMED
        kept = len(logs) - 2 * cut
        winsorized = np.clip(logs, logs[cut], logs[-cut - 1])
        variance = float(np.var(winsorized, ddof=1)) * (len(logs) - 1) / (kept - 1)
        return cls(float(np.mean(logs[cut : len(logs) - cut])), max(variance, _LEAST_VARIANCE), kept)


def shared_spread(cases: Mapping[str, Sides], confidence: float = CONFIDENCE) -> dict[str, Estimate]:
    """An estimate for each case that has enough rounds, by its name; none where there are too few such cases.

    Args:
        cases: base's and head's values of each, one a round.
    """
    from scipy.stats import t

    sides = {
        name: (TrimmedSide.of(base), TrimmedSide.of(head))
        for name, (base, head) in cases.items()
        if min(len(base), len(head)) >= FEWEST_ROUNDS
    }
    if len(sides) < FEWEST_CASES:
        return {}
    own = {name: _pooled(*both) for name, both in sides.items()}
    prior, prior_freedom = _prior(*(np.array(each) for each in zip(*own.values(), strict=True)))
    found = {}
    for name, (base, head) in sides.items():
        variance, freedom = own[name]
        if math.isinf(prior_freedom):
            variance, freedom = prior, math.inf
        else:
            variance = (prior_freedom * prior + freedom * variance) / (prior_freedom + freedom)
            freedom += prior_freedom
        error = math.sqrt(variance * (1 / base.kept + 1 / head.kept))
        effect = head.mean - base.mean
        half = float(t.ppf((1 + confidence) / 2, freedom)) * error
        p = 2 * float(t.sf(abs(effect) / error, freedom))
        rounds = min(map(len, cases[name]))
        found[name] = Estimate(effect, effect - half, effect + half, p, rounds, METHOD, confidence)
    return found


def _pooled(base: TrimmedSide, head: TrimmedSide) -> tuple[float, int]:
    """The variance of a round of either side, and its degrees of freedom."""
    freedoms = base.kept - 1, head.kept - 1
    weighted = base.variance * freedoms[0] + head.variance * freedoms[1]
    return weighted / sum(freedoms), sum(freedoms)


def _prior(variances: np.ndarray, freedoms: np.ndarray) -> tuple[float, float]:
    """The variance that all are drawn to, and what it weighs in degrees of freedom.

    Infinite where variances differ by no more than chance makes them.
    """
    from scipy.optimize import root_scalar
    from scipy.special import digamma, polygamma

    logs = np.log(variances) - digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(np.var(logs, ddof=1) - np.mean(polygamma(1, freedoms / 2)))
    if excess <= polygamma(1, _MOST_FREEDOM / 2):
        return math.exp(float(np.mean(logs))), math.inf
    solution = root_scalar(lambda x: float(polygamma(1, x)) - excess, bracket=(1e-6, _MOST_FREEDOM / 2))
    half = float(solution.root)
    return math.exp(float(np.mean(logs)) + float(digamma(half)) - math.log(half)), 2 * half
