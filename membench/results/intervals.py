"""What the rounds of a case say of its time: a median, and the interval that another run's would lie in.

A replicate is a round, a fresh process. Times are held by their logarithms: noise is a share of a time. No interval
without assumptions has 95 % coverage with three rounds, so it is Student's, and as three rounds tell their own spread
poorly, the spread is never taken to be less than what the cases of the run have together.
"""

import math
import statistics
from collections.abc import Iterable, Sequence

from membench.results.quantiles import student_t
from membench.results.records import Round

FEWEST_ROUNDS = 3  # with fewer there is no interval and no order
_MEASURED_S = (1e-12, 1e7)  # of one call; what lies outside is no measurement


def medians_s(rounds: Iterable[Round]) -> dict[int, float]:
    """The median of the samples of each round that went well, in seconds, by the round's number."""
    found = {r.number: statistics.median(r.samples_s) for r in rounds if r.status == "ok" and r.samples_s}
    low, high = _MEASURED_S
    return {number: median for number, median in found.items() if low < median < high}


def pooled_spread(cases: Iterable[Sequence[Round]]) -> float | None:
    """The spread of the logarithms of a case's rounds, as root mean square over the cases of a run.

    None where no case has the rounds for it.
    """
    squares, degrees = 0.0, 0
    for rounds in cases:
        logs = _logs(rounds)
        if len(logs) >= FEWEST_ROUNDS:
            squares += (len(logs) - 1) * statistics.variance(logs)
            degrees += len(logs) - 1
    return math.sqrt(squares / degrees) if degrees else None


def latency_interval_ms(rounds: Sequence[Round], run_spread: float | None) -> tuple[float, float] | None:
    """The 95 % interval of a latency over its rounds, in milliseconds; None with fewer than three.

    It lies around the mean of the logarithms, and reaches to their median, which is the figure, where that is outside.

    Args:
        rounds: of one case.
        run_spread: ``pooled_spread`` of the run's cases, where it is known.
    """
    logs = _logs(rounds)
    if len(logs) < FEWEST_ROUNDS:
        return None
    spread = max(statistics.stdev(logs), run_spread or 0.0)
    centre, figure = statistics.fmean(logs), math.log(statistics.median(map(math.exp, logs)))
    half_width = student_t(len(logs) - 1) * spread / math.sqrt(len(logs))
    low, high = min(centre - half_width, figure), max(centre + half_width, figure)
    return 1e3 * math.exp(low), 1e3 * math.exp(high)


def _logs(rounds: Iterable[Round]) -> list[float]:
    return [math.log(median) for median in medians_s(rounds).values()]
