"""Quantiles of what few rounds say: Student's t, and the studentized range of several means.

SciPy is imported only where a quantile is asked for: that takes as long as starting membench does.
"""

from functools import cache

CONFIDENCE = 0.95


@cache
def student_t(degrees: int) -> float:
    """Student's t that 95 % lie within on both sides, with so many degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))


@cache
def studentized_range(means: int, degrees: int) -> float:
    """The 95 % quantile of (largest - smallest) / s of so many normal means, s being estimated with ``degrees``.

    Args:
        means: at least 2.
        degrees: of freedom of s, at least 2.
    """
    from scipy.stats import studentized_range as distribution

    return float(distribution.ppf(CONFIDENCE, means, degrees))
