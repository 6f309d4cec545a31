"""Quantiles of what few rounds say: the studentized range of several means, and with it Student's t.

SciPy has both. It is not asked here: importing ``scipy.stats`` takes longer than a report does, and a machine that is
measured need not have it. Tests hold these values against SciPy's.
"""

import math
from functools import cache

CONFIDENCE = 0.95
_NODES = 64  # of each of the two integrals: four digits of a hundred means, seven of a dozen
_EIGHT_SIGMA = 8.0
_EXACT = 1e-8  # relative


@cache
def studentized_range(means: int, degrees: int) -> float:
    """The 95 % quantile of (largest - smallest) / s of so many normal means, s being estimated with ``degrees``.

    Args:
        means: at least 2.
        degrees: of freedom of s, at least 2.
    """
    low, high = 0.0, 8.0
    while _probability(high, means, degrees) < CONFIDENCE:
        low, high = high, 2 * high
    while high - low > _EXACT * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, means, degrees) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def student_t(degrees: int) -> float:
    """Student's t that 95 % lie within on both sides: the range of two means, over the root of two."""
    return studentized_range(2, degrees) / math.sqrt(2)


def _probability(quantile: float, means: int, degrees: int) -> float:
    """P(range <= quantile): over s, which is chi over the root of its degrees, and over the smallest of the means."""
    import numpy as np

    (z, z_weight, below_z), (s, s_weight) = _normal(), _chi(degrees)
    above = np.array([[_below(each + quantile * spread) for each in z] for spread in s])
    within = means * ((above - below_z) ** (means - 1)) @ z_weight
    return float(within @ s_weight)


@cache
def _normal():  # noqa: ANN202 - arrays of numpy, which is imported where it is needed
    """(points, weights times density, probability below) of the standard normal distribution."""
    import numpy as np

    at, weight = _points(-_EIGHT_SIGMA, _EIGHT_SIGMA)
    return at, weight * np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi), np.array([_below(each) for each in at])


@cache
def _chi(degrees: int):  # noqa: ANN202
    """(points, weights times density) of the root of chi-squared over its degrees."""
    import numpy as np

    width = _EIGHT_SIGMA / math.sqrt(2 * degrees)
    at, weight = _points(max(0.0, 1 - width), 1 + width)
    half = degrees / 2
    log_density = math.log(2) + half * math.log(half) - math.lgamma(half) + (degrees - 1) * np.log(at) - half * at**2
    return at, weight * np.exp(log_density)


def _points(low: float, high: float):  # noqa: ANN202
    """Gauss and Legendre's points and weights of an interval."""
    import numpy as np

    at, weight = np.polynomial.legendre.leggauss(_NODES)
    return low + (high - low) * (at + 1) / 2, weight * (high - low) / 2


def _below(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2
