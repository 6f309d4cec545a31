"""Quantiles of what few rounds say: Student's t, and the studentized range of several means.

SciPy is imported only where a quantile is asked for: that takes as long as starting membench does.
"""

from functools import cache

CONFIDENCE = 0.95


@cache
def student_t(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Student's t that a share of ``confidence`` lies within on both sides, with so many degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, degrees))


def student_p(t: float, degrees: int) -> float:
    """The share that lies beyond ``t`` on both sides."""
    from scipy.stats import t as distribution

    return float(2 * distribution.sf(abs(t), degrees))


@cache
def studentized_range(means: int, degrees: int) -> float:
    """The 95 % quantile of (largest - smallest) / s of so many normal means, s being estimated with ``degrees``.

    Args:
        means: at least 2.
        degrees: of freedom of s, at least 2.
    """
    from scipy.stats import studentized_range as distribution

    return float(distribution.ppf(CONFIDENCE, means, degrees))
