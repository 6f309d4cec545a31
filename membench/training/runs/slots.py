"""Runs beside each other: how many, on which cores, and each in a process of its own."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from membench.case import Case
from membench.machine.device import default_threads, usable_cores
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.scenario.settings import Measure
from membench.training.runs.protocol import CaseTrained, TrainCase

WORKER = "membench.training.runs.worker"
SMALL_PARAMS = 20_000_000  # up to which a model trains faster on one core, beside others, than on several
_TIMED = ("seconds", "joules")  # budgets that a run beside it would eat of
Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Share:
    """What each run has of the machine: how many there are at once, and how many cores each has."""

    at_once: int
    threads: int

    @classmethod
    def of(
        cls,
        cases: Iterable[Case],
        params: Iterable[int | None],
        measure: Measure,
        device: str,
        local_ranks: int | None = None,
    ) -> "Share":
        """As the scenario says; else a core each for small models, on all cores, unless time is the budget.

        Args:
            local_ranks: of this host, that train each run together; None: each run has a process.
        """
        cores = max(1, default_threads() // (local_ranks or 1))
        small = all(size is not None and size <= SMALL_PARAMS for size in params)
        threads = min(measure.threads or (1 if small and device == "cpu" else cores), cores)
        timed = any(case.training is not None and case.training.stop.at in _TIMED for case in cases)
        alone = timed or device != "cpu" or local_ranks is not None
        return cls(measure.at_once or (1 if alone else max(1, cores // threads)), threads)

    def cores(self, slot: int) -> list[int]:
        """Those of one of the runs at once; more runs than cores share them."""
        usable = usable_cores()
        return [usable[(slot * self.threads + each) % len(usable)] for each in range(self.threads)]


@dataclass(slots=True)
class Slots(Generic[Job]):
    """Places for runs at once."""

    share: Share
    timeout_seconds: float
    report: Callable[[Job, str], None]
    _open: set[ChildProcess] = field(default_factory=set)
    _ending: bool = False

    def answers(
        self, jobs: Iterable[Job], question: Callable[[Job, list[int]], TrainCase]
    ) -> Generator[tuple[Job, CaseTrained | Failed]]:
        """Each job with what came of it, as soon as it has. Closing it ends what is under way."""
        self._ending = False
        free: SimpleQueue[int] = SimpleQueue()
        for slot in range(self.share.at_once):
            free.put(slot)

        def run(job: Job) -> CaseTrained | Failed:
            slot = free.get()
            try:
                return self._run(job, question(job, self.share.cores(slot)))
            finally:
                free.put(slot)

        with ThreadPoolExecutor(self.share.at_once) as pool:  # a process ends with the thread that has started it
            waiting: dict[Future[CaseTrained | Failed], Job] = {pool.submit(run, job): job for job in jobs}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for each in done:
                        yield waiting.pop(each), each.result()
            finally:
                self._ending = True
                for each in waiting:
                    each.cancel()
                for process in [*self._open]:
                    process.kill()

    def _run(self, job: Job, asked: TrainCase) -> CaseTrained | Failed:
        with ChildProcess(WORKER, threads=len(asked.cores), timeout_seconds=self.timeout_seconds) as process:
            process.report = lambda doing: self.report(job, doing)
            self._open.add(process)
            try:
                if self._ending:  # it was started while the others were ended
                    process.kill()
                return process.ask(asked, CaseTrained)
            finally:
                self._open.discard(process)
