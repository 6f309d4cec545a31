"""Fair tuning: each arm's rates by as many trials as any other's, on seeds that the result does not use."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from membench.learning.grid import Rates, Tried, axes_of, best, between, beyond_edge, grid
from membench.learning.settings import Training, Tuning
from membench.planning.plan import PlannedCase
from membench.results.records import Trial
from membench.scenario.settings import TRIAL_SEEDS
from membench.training.runs.jobs import Job, where

ANSWER = "answer_nll"  # by which rates are chosen


@dataclass(slots=True)
class Tuned:
    """A case and what was tried of it, in order."""

    planned: PlannedCase
    training: Training
    tuning: Tuning
    tried: list[Tried] = field(default_factory=list)

    @property
    def point(self) -> str:
        """Equal for the cases that are compared."""
        return json.dumps(self.planned.point, sort_keys=True)

    def jobs(self, rates: Rates) -> list[Job]:
        """The runs of one trial."""
        id_, case, share = self.planned.id, self.planned.case, self.tuning.share
        at = where(self.planned)
        return [Job(id_, case, rates, TRIAL_SEEDS + number, share, at) for number in range(self.tuning.seeds)]


def choose_rates(
    cases: Iterable[PlannedCase],
    run: Callable[[list[Job]], None],
    found: Callable[[Job], Trial | None],
) -> dict[str, Rates]:
    """The best rates of each case that is tuned, by its id; a case of which a trial failed has none.

    The grid first; then the best beyond its edges while it lies on one, ``widenings`` times at most; then, for arms
    with fewer trials than another that they are compared with, between the best and its neighbours.

    Args:
        run: runs these jobs, those that were run before excepted.
        found: what came of a job; None: it failed.
    """
    tuned = [
        Tuned(each, training, training.tuning)
        for each in cases
        if (training := each.case.training) is not None and training.tuning is not None
    ]

    def attempt(asked: Sequence[tuple[Tuned, Rates]]) -> None:
        run([job for each, rates in asked for job in each.jobs(rates)])
        for each, rates in asked:
            trials = [trial for job in each.jobs(rates) if (trial := found(job)) is not None]
            if len(trials) == each.tuning.seeds:
                each.tried.append(Tried(rates, _mean_nll(trials)))
            elif each in tuned:
                tuned.remove(each)

    attempt([(each, rates) for each in tuned for rates in grid(axes_of(each.training, each.planned.case.layer))])
    for number in range(max((each.tuning.widenings for each in tuned), default=0)):
        open_ = [each for each in tuned if number < each.tuning.widenings]
        attempt([(each, rates) for each in open_ if (rates := beyond_edge(each.tried)) is not None])
    while short := [each for each in tuned if len(each.tried) < _most(tuned, each.point)]:
        attempt([(each, between(each.tried)) for each in short])
    return {each.planned.id: best(each.tried).rates for each in tuned}


def _most(tuned: Sequence[Tuned], point: str) -> int:
    return max(len(each.tried) for each in tuned if each.point == point)


def _mean_nll(trials: Sequence[Trial]) -> float:
    """Infinity where one diverged: such rates are no arm's best."""
    known = [trial.final.get(ANSWER) for trial in trials if trial.status == "ok"]
    values = [value for value in known if value is not None]
    return statistics.fmean(values) if len(values) == len(trials) else math.inf
