"""A worker of ``membench run`` whose every timed call does more real work, by a share that a variable says.

``benchmarks.stored_runs`` measures with it what a commit that is so much slower would be. As the worker that it stands
for, it imports torch only when its threads are pinned.
"""

import sys

from membench.processes.serving import Server
from membench.running.protocol import Build, Built
from membench.running.worker import Worker

SHARE = "MEMBENCH_SLOWED_BY"  # 0.1: by a tenth


class SlowedWorker(Worker):
    """The cases of one build, slowed."""

    def build(self, job: Build) -> Built:
        built, plain = super().build(job), self.measurement
        from benchmarks.slowed_measurement import Slowed

        before = plain.preparation
        self.measurement = Slowed(plain.layer, plain.clock, before.cache_bytes, plain.progress, before.store)
        return built


if __name__ == "__main__":
    sys.exit(SlowedWorker(Server()).serve())
