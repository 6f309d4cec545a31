"""One side of an ab, in a process of its own: builds, checks, then times a few calls whenever it is asked.

Reads a job (a line of JSON) and then questions, a line each; answers with events as
``membench.worker`` does. Between questions it is silent and idle: the other side is being timed.
"""

import json
import sys
from importlib import import_module
from itertools import count
from typing import Any

from pydantic import ValidationError

from membench.device import cache_bytes
from membench.layers.spec import ExternalSpec
from membench.worker import Events, Job, classify, prepare_process, say_failure


class Side:
    """The cases of one build, prepared one after the other and timed on demand."""

    def __init__(self, job: Job, events: Events) -> None:
        self.threads = prepare_process(job.threads)
        from membench.layers.factory import build
        from membench.measure.time import Clock
        from membench.measurement import CaseMeasurement

        self.job, self.events = job, events
        first = job.cases[0]
        layer = build(first.layer, ranks=first.ranks, device=job.device, seed=first.seed)
        self.clock = Clock(job.device)
        self.measurement = CaseMeasurement(layer, self.clock, cache_bytes(job.device), self._progress)
        self.prepared: Any = None
        self.clocks: list[dict[str, Any]] = []
        self.inputs = count()

    def _progress(self, doing: str) -> None:
        self.events.send("progress", doing=doing)

    def origin(self) -> str:
        """The file that what is measured was imported from."""
        spec = self.job.cases[0].layer
        module = spec.factory.split(":")[0] if isinstance(spec, ExternalSpec) else "membench.layers"
        return import_module(module).__file__ or ""

    def prepare(self, index: int) -> None:
        """Make a case of the job the one that is timed: checked against the reference and warm."""
        from membench.measure.clocks import read_clocks
        from membench.measure.time import warm_up

        self.prepared = self.measurement.prepare(self.job.cases[index], self.job.implementations)
        calls, steady, fastest_s = warm_up(self.clock, self.prepared.step, self.job.warmup_seconds)
        self.inputs = count(calls)
        self.clocks = [read_clocks(self.job.device)]
        self.events.send("prepared", fastest_s=fastest_s, warmup_calls=calls, steady=steady)

    def sample(self, samples: int, calls: int) -> None:
        """So many samples of so many calls each (CUDA: of one call, the L2 cache flushed before it)."""
        step = self.prepared.step
        if self.job.device == "cuda":
            seconds = self.clock.queued_seconds(step, self.inputs, samples, cold=True)
        else:
            seconds = [self.clock.seconds(step, self.inputs, calls) for _ in range(samples)]
        self.events.send("sampled", seconds=seconds)

    def facts(self) -> None:
        """Everything else that a round says of the case."""
        from membench.measure.clocks import read_clocks

        self.clocks.append(read_clocks(self.job.device))
        known = {"threads": self.threads, "clocks": self.clocks}
        self.events.send("facts", facts={**self.measurement.facts(self.prepared), **known})


def serve(events: Events) -> None:
    """Answers questions until there are no more."""
    try:
        job = Job.model_validate_json(sys.stdin.readline())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"this revision's layers do not know the case: {key}: {first['msg']}") from None
    side = Side(job, events)
    events.send("built", origin=side.origin())
    for line in sys.stdin:
        question = json.loads(line)
        try:
            match question["ask"]:
                case "prepare":
                    side.prepare(question["index"])
                case "sample":
                    side.sample(question["samples"], question["calls"])
                case "facts":
                    side.facts()
        except Exception as error:  # whatever a layer raises is its round's reason
            status, reason = classify(error)
            events.send("case_failed", status=status, reason=reason)
            if "CUDA error" in reason:
                sys.exit(1)  # such an error stays with the process; what is left gets a new one
            side.measurement.layer.zero_gradients()


if __name__ == "__main__":
    sys.exit(say_failure(serve))
