"""Runs one after the other, each by all ranks: a team of processes that train one model together."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Generic

from membench.processes.channel import Failed
from membench.running.ranks import Ranks
from membench.training.runs.protocol import CaseTrained, TrainCase
from membench.training.runs.slots import WORKER, Job, Share


@dataclass(frozen=True, slots=True)
class TogetherRuns(Generic[Job]):
    """What ``Slots`` is for runs that have a process each. ``share.threads`` are those of each rank."""

    ranks: Ranks
    device: str
    share: Share
    timeout_seconds: float
    report: Callable[[Job, str], None]

    def answers(
        self, jobs: Iterable[Job], question: Callable[[Job, list[int]], TrainCase]
    ) -> Generator[tuple[Job, CaseTrained | Failed]]:
        """Each job with what came of it, as soon as it has. Closing it ends what is under way.

        Raises:
            RankLost: a rank of membench is gone, and with it the run.
        """
        for job in [*jobs]:  # who asks may strike out what is done
            with self.ranks.team(WORKER, self.device, self.share.threads, self.timeout_seconds) as team:
                team.report = lambda doing, job=job: self.report(job, doing)
                answer = team.ask(question(job, []), CaseTrained)
            yield job, answer
