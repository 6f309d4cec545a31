"""A process of its own that builds one layer and measures its cases, one after the other, as it is asked.

The parent may kill it at any time; nothing is lost but the case under way.
"""

import gc
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from membench.machine.device import default_threads, usable_cores
from membench.processes.serving import Answers, Server, be_killed_first
from membench.running.protocol import Build, Built, Found, Join, Joined, MeasureCase

if TYPE_CHECKING:
    from membench.measuring.measurement import CaseMeasurement
    from membench.measuring.time import Clock


def prepare_process(threads: int | None, local_rank: int = 0) -> int:
    """Pin threads to cores, before torch is imported, and be killed first. Returns the threads.

    ``local_rank``: each of a host's ranks has cores of its own, as long as there are any.
    """
    be_killed_first()
    cores = usable_cores()
    count = min(threads or default_threads(), len(cores))
    if hasattr(os, "sched_setaffinity"):
        first = local_rank * count % len(cores)
        os.sched_setaffinity(0, set([*cores, *cores][first : first + count]))
    import torch

    torch.set_num_threads(count)
    return count


@cache
def never_collect_what_is_there() -> None:
    """Before anything is built: each case looks for garbage, and of what was imported none will ever be.

    Once a process: after a build there may be garbage, and it would be kept for ever.
    """
    gc.freeze()


class Worker:
    """The cases of one build."""

    job: Build
    clock: "Clock"
    measurement: "CaseMeasurement"
    threads: int

    def __init__(self, server: Server) -> None:
        self.server = server
        self.joined: Join | None = None

    def answers(self) -> Answers:
        """What it can be asked."""
        return {Join: self.join, Build: self.build, MeasureCase: self.measure}

    def join(self, asked: Join) -> Joined:
        """Meet the other ranks, before anything is built."""
        self.threads = prepare_process(asked.threads, asked.local_rank)
        from membench.measuring.meeting import meet

        meet(asked)
        self.joined = asked
        return Joined()

    def build(self, job: Build) -> Built:
        """The layer, with the machine's ceilings beside it."""
        threads = self.threads if self.joined else prepare_process(job.threads)
        from membench.measuring.built_layer import build_with_ceilings
        from membench.measuring.in_step import Alone, Together
        from membench.measuring.measurement import CaseMeasurement
        from membench.measuring.stored_inputs import InputStore

        never_collect_what_is_there()
        self.job = job
        ranks = Together() if self.joined else Alone()
        built = build_with_ceilings(job.cases[0], job.device, self.server.progress, job.ceilings, ranks)
        self.clock = built.clock
        store = None if job.inputs_folder is None or self.joined else InputStore(Path(job.inputs_folder))
        self.measurement = CaseMeasurement(built.layer, built.clock, built.cache_bytes, self.server.progress, store)
        return Built(
            origin=origin(job),
            threads=threads,
            ceilings=built.ceilings.as_json(),
            huge_pages=built.huge_pages,
            seconds=built.seconds,
        )

    def measure(self, asked: MeasureCase) -> Found:
        """A case checked, then timed."""
        from membench.measuring.time import Sampling

        job = self.job
        sampling = Sampling(job.min_samples, job.floor_samples, job.max_seconds, job.warmup_seconds, job.retake_seconds)
        case, ways = job.cases[asked.index], job.implementations
        found = self.measurement.run(case, sampling, ways, asked.checked, memory=asked.memory, paced=asked.pacer)
        return Found(found=found)

    def forget(self) -> None:
        """Drop what a case that failed has left."""
        self.measurement.layer.zero_gradients()

    def serve(self) -> int:
        """Entry point of the process."""
        return self.server.serve(self.answers(), self.forget)


def origin(job: Build) -> str:
    """The file that what is measured was imported from."""
    from membench.layers import factory

    return factory.origin(job.cases[0].layer)


if __name__ == "__main__":
    sys.exit(Worker(Server()).serve())
