"""The words of the gate and what they carry."""

import math
from dataclasses import dataclass
from enum import StrEnum

from membench.gate.statistics import Estimate


class Verdict(StrEnum):
    """What a comparison says, the worst first."""

    FAILED = "FAILED"  # was ok, now is not
    MISSING = "MISSING"  # was ok, now is not there
    WORSE = "WORSE"  # a count grew, or a stated limit is broken
    SLOW = "SLOW"
    INCOMPARABLE = "INCOMPARABLE"
    INCONCLUSIVE = "INCONCLUSIVE"
    NEW = "NEW"
    FIXED = "FIXED"
    BETTER = "BETTER"
    FAST = "FAST"
    SAME = "SAME"

    @property
    def is_regression(self) -> bool:
        return self in (Verdict.FAILED, Verdict.MISSING, Verdict.WORSE, Verdict.SLOW)

    @property
    def is_open(self) -> bool:
        """Whether nothing could be said."""
        return self in (Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE)


ORDER = list(Verdict)


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One metric of one case. ``change`` is head over base less one; ``margin`` what it was held against."""

    metric: str
    verdict: Verdict
    reason: str = ""
    base: float | None = None
    head: float | None = None
    margin: float | None = None
    estimate: Estimate | None = None

    @property
    def change(self) -> float | None:
        """The estimated change where there is an estimate, else the medians'; None against 0."""
        if self.estimate is not None:
            return math.expm1(self.estimate.effect)
        return None if self.head is None or not self.base else self.head / self.base - 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between which changes the truth lies, at the estimate's confidence."""
        if self.estimate is None or self.estimate.low is None or self.estimate.high is None:
            return None
        return math.expm1(self.estimate.low), math.expm1(self.estimate.high)


def worst(verdicts: list[MetricVerdict]) -> MetricVerdict:
    """The one to show of several: the worst verdict, of equal ones the first."""
    return min(verdicts, key=lambda each: ORDER.index(each.verdict))
