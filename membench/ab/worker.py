"""One side of an ab, in a process of its own: builds, checks, then times a few calls whenever it is asked.

Between questions it is silent and idle: the other side is being timed.
"""

import sys
from itertools import count
from typing import TYPE_CHECKING, Any

from membench.machine.device import cache_bytes
from membench.processes.serving import Answers, Server
from membench.running.protocol import Build, Built, Found, PrepareCase, Prepared, Sampled, TakeSamples, TellFacts
from membench.running.worker import Worker, never_collect_what_is_there, origin, prepare_process

if TYPE_CHECKING:
    from membench.measuring.time import StepCall


class Side(Worker):
    """The cases of one build, prepared one after the other and timed on demand."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.prepared: Any = None
        self.timed: StepCall | None = None
        self.notes: list[str] = []
        self.clocks: list[dict[str, Any]] = []
        self.inputs = count()

    def answers(self) -> Answers:
        return {
            Build: self.build,
            PrepareCase: self.prepare,
            TakeSamples: self.sample,
            TellFacts: self.facts,
        }

    def build(self, job: Build) -> Built:
        """The layer alone: ceilings would be measured while the other side builds."""
        self.threads = prepare_process(job.threads)
        from membench.layers.factory import build
        from membench.measuring.measurement import CaseMeasurement
        from membench.measuring.time import Clock

        never_collect_what_is_there()
        self.job, first = job, job.cases[0]
        layer = build(first.layer, ranks=first.ranks, device=job.device, seed=first.seed)
        self.clock = Clock(job.device)
        self.measurement = CaseMeasurement(layer, self.clock, cache_bytes(job.device), self.server.progress)
        return Built(origin=origin(job), threads=self.threads)

    def prepare(self, asked: PrepareCase) -> Prepared:
        """Make a case of the job the one that is timed: checked against the reference and warm."""
        from membench.machine.clocks import read_clocks
        from membench.measuring.time import calls_in, warm_up

        self.prepared = self.measurement.prepare(self.job.cases[asked.index], self.job.implementations)
        self.timed, self.notes = self.measurement.as_in_model(self.prepared)
        warm, each = warm_up(self.clock, self.timed, self.job.warmup_seconds), calls_in(self.timed)
        self.inputs = count(warm.calls)
        self.clocks = [read_clocks(self.job.device)]
        return Prepared(fastest_s=warm.fastest_s, warmup_calls=warm.calls, steady=warm.steady, calls_in_step=each)

    def sample(self, asked: TakeSamples) -> Sampled:
        """So many samples of so many calls each (CUDA: of one call, the L2 cache flushed before it)."""
        from membench.measuring.time import calls_in

        step = self.timed
        assert step is not None, "nothing is prepared"
        if self.job.device == "cuda":
            return Sampled(seconds=self.clock.queued_seconds(step, self.inputs, asked.samples, cold=True))
        steps = max(1, asked.calls // calls_in(step))
        return Sampled(seconds=[self.clock.seconds(step, self.inputs, steps) for _ in range(asked.samples)])

    def facts(self, asked: TellFacts) -> Found:
        """Everything else that a round says of the case."""
        from membench.machine.clocks import read_clocks

        del asked
        self.clocks.append(read_clocks(self.job.device))
        known = {"threads": self.threads, "clocks": self.clocks}
        self.timed = None  # the memory of copies is none of the case's
        return Found(found={**self.measurement.facts(self.prepared, notes=self.notes), **known})


if __name__ == "__main__":
    sys.exit(Side(Server()).serve())
