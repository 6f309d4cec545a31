"""A plan of level training run into a journal: trials first, then the seeds of every arm, the same for all."""

import shutil
import statistics
from collections import defaultdict
from contextlib import closing, suppress
from typing import Any

from membench.machine.provenance import utc_now
from membench.planning.plan import Plan, PlannedCase
from membench.processes.channel import Failed
from membench.results.records import Round, Trial
from membench.running.journal import SUFFIX, Journal
from membench.running.progress import RunProgress
from membench.running.ranks import Ranks
from membench.scenario.settings import Measure
from membench.training.runs.jobs import Job, stated_rates, where
from membench.training.runs.protocol import CaseTrained, TrainCase
from membench.training.runs.slots import Share, Slots
from membench.training.runs.together import TogetherRuns
from membench.training.runs.tuning import ANSWER, choose_rates
from membench.words import how_many

_FOLDER = ".runs"  # beside the journal, of checkpoints of what is under way


class TrainingRunner:
    """Trains a plan's cases into a journal; what the journal holds already is passed over.

    ``ranks``: that train each run together; None: each has a process of its own.
    """

    def __init__(self, plan: Plan, measure: Measure, device: str, journal: Journal, ranks: Ranks | None = None) -> None:
        self.cases, self.journal, self.device, self.ranks = plan.runnable, journal, device, ranks
        known = [(each.case, each.params) for each in self.cases]
        local_ranks = None if ranks is None else ranks.local_ranks
        self.share = Share.of([case for case, _ in known], [size for _, size in known], measure, device, local_ranks)
        self.timeout_seconds = measure.timeout_seconds
        self.folder = journal.path.with_name(journal.path.name.removesuffix(SUFFIX) + _FOLDER)
        self._failed: dict[str, Failed] = {}
        self._doing: dict[str, str] = {}
        self._estimate = ""
        self._ceilings: dict[str, Any] = {}
        self._seeds_to_come = 0
        self._started: dict[str, str] = {}
        self._first_seed = {each.id: _seeds(each).start for each in self.cases}
        self._seconds: dict[str, list[float]] = defaultdict(list)  # of whole budgets, by case

    @property
    def total(self) -> int:
        """Runs, as far as they are known: grids may be widened, and those of an interrupted run may have been."""
        return sum(
            max(each.learning.trials, len(self.journal.trials.get(each.id, ()))) + each.learning.seeds
            for each in self.cases
            if each.learning
        )

    @property
    def done(self) -> int:
        """Those that an interrupted run has left."""
        trials = sum(map(len, self.journal.trials.values()))
        return trials + sum(self.journal.has(each.id, seed) for each in self.cases for seed in _seeds(each))

    @property
    def announcement(self) -> str:
        """How many runs there are, and how many at once."""
        once = f", {self.share.at_once} at once" if self.share.at_once > 1 else ""
        each = "each" if self.ranks is None else "a rank"
        return (
            f"{how_many(self.total - self.done, 'training run')}{once}, {how_many(self.share.threads, 'thread')} {each}"
        )

    def run(self, progress: RunProgress) -> None:
        """All of them."""
        self.progress = progress
        self._seeds_to_come = sum(not self.journal.has(each.id, seed) for each in self.cases for seed in _seeds(each))
        rates = {each.id: stated_rates(each.case) for each in self.cases}
        chosen = choose_rates(self.cases, self._run, self._trial)
        self._seeds_to_come = 0
        for each in self.cases:
            rates[each.id] |= chosen.get(each.id, {})
        seeds = max((each.learning.seeds for each in self.cases if each.learning), default=0)
        jobs = [
            Job(each.id, each.case, rates[each.id], _seeds(each)[number], at=where(each))
            for number in range(seeds)  # all arms on a seed before the next: what is interrupted is still paired
            for each in self.cases
            if number < len(_seeds(each))
        ]
        self._run(jobs)
        with suppress(OSError):
            self.folder.rmdir()

    def _run(self, jobs: list[Job]) -> None:
        """Those of the jobs that are still to be run."""
        waiting = [job for job in jobs if job.id not in self._failed and not self._is_done(job)]
        if not waiting:
            return
        self.progress.expect(self.done + len(waiting) + self._seeds_to_come)
        with closing(self._places().answers(waiting, self._question)) as answers:
            for job, answer in answers:
                waiting.remove(job)
                self._keep(job, answer)
                self._estimate = self._left(waiting)
                self.progress.finished("; ".join(filter(None, [_line(job, answer), self._estimate])))

    def _places(self) -> Slots[Job] | TogetherRuns[Job]:
        """Where runs are trained."""
        if self.ranks is None:
            return Slots(self.share, self.timeout_seconds, self._report)
        return TogetherRuns(self.ranks, self.device, self.share, self.timeout_seconds, self._report)

    def _question(self, job: Job, cores: list[int]) -> TrainCase:
        """Asked as soon as there is room for the job."""
        self._started[job.key] = utc_now()
        folder = str(self.folder.absolute() / job.key)  # ranks may work elsewhere
        return TrainCase(
            case=job.trained,
            seed=job.seed,
            device=self.device,
            cores=cores,
            folder=folder,
            ceilings=self._ceilings,
        )

    def _report(self, job: Job, doing: str) -> None:
        self._doing[job.key] = f"{job.name}: {doing}"
        self.progress.doing("; ".join(filter(None, [self._estimate, *self._doing.values()])))

    def _keep(self, job: Job, answer: CaseTrained | Failed) -> None:
        """On disk, and the checkpoints that it makes needless are gone."""
        self._doing.pop(job.key, None)
        if isinstance(answer, Failed):
            self._failed[job.id] = answer
            status, reason, facts = answer.status, answer.reason, {}
        else:
            trained = answer.trained
            status, reason = trained.status, trained.reason
            facts = {"curve": trained.curve, "final": trained.final, "seconds": answer.seconds, "data": trained.data}
            facts["ceilings"] = self._ceilings = answer.ceilings
            facts["ran"] = {"at_once": self.share.at_once, "resumed_at": trained.resumed_at}
            facts["ranks"] = answer.ranks
            self._seconds[job.id].append(answer.seconds["process"] / job.share)
            shutil.rmtree(self.folder / job.key, ignore_errors=True)
        if job.is_trial and not isinstance(answer, Failed):
            final = answer.trained.final
            self.journal.add_trial(
                job.id, Trial(rates=job.rates, seed=job.seed, status=status, reason=reason, final=final)
            )
            return
        number = self._first_seed[job.id] if job.is_trial else job.seed  # whose trial failed has no result
        self.journal.add(
            job.id,
            Round(
                number=number,
                started=self._started[job.key],
                status=status,
                reason=reason,
                rates=job.rates,
                threads=self.share.threads,
                **facts,
            ),
        )

    def _is_done(self, job: Job) -> bool:
        return self._trial(job) is not None if job.is_trial else self.journal.has(job.id, job.seed)

    def _trial(self, job: Job) -> Trial | None:
        known = self.journal.trials.get(job.id, ())
        return next((each for each in known if (each.rates, each.seed) == (job.rates, job.seed)), None)

    def _left(self, waiting: list[Job]) -> str:
        """About how long it will take to the end of the run, but for trials that are not known yet."""
        every = [seconds for of in self._seconds.values() for seconds in of]
        if not every or not (waiting or self._seeds_to_come):
            return ""
        mean = statistics.fmean(every)
        means = {id_: statistics.fmean(of) for id_, of in self._seconds.items()}
        seconds = sum(job.share * means.get(job.id, mean) for job in waiting) + self._seeds_to_come * mean
        return f"about {_duration(seconds / self.share.at_once)} left"


def _seeds(planned: PlannedCase) -> range:
    """Those of a case's result."""
    known = planned.learning
    return range(0) if known is None else range(known.first_seed, known.first_seed + known.seeds)


def _line(job: Job, answer: CaseTrained | Failed) -> str:
    if isinstance(answer, Failed):
        return f"{job.name}: {answer.status}: {answer.reason}"
    trained, nll = answer.trained, answer.trained.final.get(ANSWER)
    told = (
        trained.reason if trained.status != "ok" else "answer NLL unknown" if nll is None else f"answer NLL {nll:.4g}"
    )
    return f"{job.name}: {told} ({_duration(answer.seconds['process'])})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
