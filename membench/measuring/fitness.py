"""What a machine is fit for at this moment: its times, ``ab`` alone, or none.

The thresholds are stated in docs/method.md, with the reasons.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from membench.json_values import mapping, number
from membench.machine.conditions import binding_quota
from membench.words import how_many

Fit = Literal["fit", "fit for ab only", "unfit"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Up to ``fit`` a machine is fit; up to ``ab`` it is fit for ``ab``, whose two sides have it alike."""

    fit: float
    ab: float
    words: str

    def judge(self, value: float | None) -> tuple[Fit, str] | None:
        """What a value makes of a machine, and why; None where it takes nothing from it, or is not known."""
        if value is None or value <= self.fit:
            return None
        fit: Fit = "fit for ab only" if value <= self.ab else "unfit"
        limit = self.fit if value <= self.ab else self.ab
        return fit, f"{self.words.format(100 * value)}, over {100 * limit:g} %"


DISTURBED = Threshold(0.1, 0.5, "{:.0f} % of the samples were disturbed")
SPREAD = Threshold(0.05, 0.25, "the middle half of the times of one product spreads over {:.1f} % of their median")
DRIFT = Threshold(0.03, 0.1, "the same product's time drifted by {:.1f} %")


def fitness(noise: Mapping[str, Any], disturbance: Mapping[str, Any], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict ``fit``, the reasons ``why`` it is not better, and the ``limits`` that bind whatever is measured.

    Args:
        noise, disturbance: of one product that was timed again and again.
        conditions: of the process that timed it; its threads are those of a measurement.
    """
    found = list(filter(None, _judged(noise, disturbance)))
    found.sort(key=lambda each: each[0] != "unfit")
    return {
        "fit": found[0][0] if found else "fit",
        "why": [why for _, why in found],
        "limits": list(_limits(conditions)),
    }


def _judged(noise: Mapping[str, Any], disturbance: Mapping[str, Any]) -> Iterator[tuple[Fit, str] | None]:
    yield DISTURBED.judge(number(disturbance, "disturbed_share"))
    throttled = number(disturbance, "shares", "throttled", "mean")
    if throttled is not None and throttled > DISTURBED.fit:
        yield "unfit", f"a CPU quota kept it from running for {100 * throttled:.0f} % of the time"
    yield SPREAD.judge(number(noise, "iqr_over_median"))
    ratio = number(noise, "second_half_over_first")
    yield DRIFT.judge(None if ratio is None else abs(ratio - 1))


def _limits(conditions: Mapping[str, Any]) -> Iterator[str]:
    """What holds times down here, for every measurement alike."""
    cores, threads = number(conditions, "cores"), number(conditions, "threads")
    quota = binding_quota(conditions, cores)
    if quota is not None and cores is not None:
        yield f"a CPU quota of {quota:g} of {how_many(int(cores), 'core')}"
    if cores is not None and threads is not None and threads < cores:
        yield f"{how_many(int(threads), 'thread')} for {how_many(int(cores), 'core')}"
    if why := conditions.get("fallback"):
        yield f"memory layers run on torch's path: {why}"
    yield from (f"{name} is {value}" for name, value in mapping(conditions, "settings").items())
