"""One round of an ab: two fresh processes of the same cases, timed in turn.

What a shared machine does to one sample it does to the next one too, so the sides alternate
sample by sample (A B B A, in random order) and neighbours are compared. What differs from
process to process (where memory came to lie) is what rounds are for.
"""

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from membench.case import Case
from membench.provenance import utc_now
from membench.records import Round
from membench.runner import Build
from membench.sections import Measure
from membench.worker import Job
from membench.worker_process import WorkerDied, WorkerProcess

MODULE = "membench.ab.worker"
_QUADS = 30  # A B B A so often: sixty samples a side
_FEWEST_QUADS = 8
_SAMPLE_SECONDS = 1e-3  # shorter calls are timed several at a time
_CUDA_SAMPLES = 3  # of one turn: a turn's first wakes the device


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a side has no samples of a case."""

    status: Any
    reason: str


class Fighter:
    """One side's process; the first thing that goes wrong ends it."""

    def __init__(self, process: WorkerProcess, timeout_s: float, report: Callable[[str], None]) -> None:
        self.process, self.timeout_s, self.report = process, timeout_s, report
        self.dead: Failure | None = None

    def ask(self, wanted: str, **question: Any) -> dict[str, Any] | Failure:
        """The answer to a question, or why there is none."""
        if self.dead:
            return self.dead
        if question:
            self.process.ask(json.dumps(question))
        try:
            while True:
                event = self.process.next_event(self.timeout_s)
                match event["event"]:
                    case "progress":
                        self.report(event["doing"])
                    case "case_failed":
                        return Failure(event["status"], event["reason"])
                    case name if name == wanted:
                        return event
        except WorkerDied as death:
            self.dead = Failure(death.status, death.reason)
            return self.dead


Rounds = tuple[Round, Round]


class Duel:
    """Rounds of one build on two sides."""

    def __init__(
        self,
        environments: tuple[dict[str, str], dict[str, str]],
        device: str,
        measure: Measure,
        report: Callable[[str], None],
    ) -> None:
        self.environments, self.device, self.measure, self.report = environments, device, measure, report

    def run(self, build: Build, number: int, finished: Callable[[Case, Rounds], None]) -> None:
        """One round of every case of a build; ``finished`` gets each as soon as it is done."""
        job = Job(
            device=self.device,
            threads=self.measure.threads,
            cases=list(build.cases),
            min_samples=self.measure.min_samples,
            floor_samples=self.measure.floor_samples,
            max_seconds=self.measure.max_seconds,
            warmup_seconds=self.measure.warmup_seconds,
            implementations=list(self.measure.implementations),
        )
        draw = random.Random(f"{build.arm} {number}")
        with ExitStack() as stack:
            sides = []
            for environment in self.environments:
                process = WorkerProcess(job.model_dump_json(), self.measure.threads, MODULE, environment, asked=True)
                sides.append(Fighter(stack.enter_context(process), self.measure.timeout_seconds, self.report))
            self.report(f"{build.arm}: building")
            for side in sides:
                side.ask("built")
            for case in build.cases:
                self.report(f"{case.arm} {case.mode}: in turn")
                finished(case, self._case(case, sides, number, draw))

    def _case(self, case: Case, sides: list[Fighter], number: int, draw: random.Random) -> Rounds:
        started = utc_now()
        ready = [side.ask("prepared", ask="prepare", case=case.id) for side in sides]
        samples, calls, failed = self._samples(sides, ready, draw)
        found = [
            self._round(number, started, side, ready[index], failed[index], samples[index], calls)
            for index, side in enumerate(sides)
        ]
        return found[0], found[1]

    def _round(
        self,
        number: int,
        started: str,
        side: Fighter,
        ready: dict[str, Any] | Failure,
        failed: Failure | None,
        samples_s: list[float],
        calls: int,
    ) -> Round:
        """One side's part of a round."""
        facts = failed or side.ask("facts", ask="facts")
        if isinstance(facts, Failure) or isinstance(ready, Failure):
            failure = facts if isinstance(facts, Failure) else ready
            assert isinstance(failure, Failure)
            return Round(number=number, started=started, status=failure.status, reason=failure.reason)
        sampling = {
            "calls_per_sample": calls,
            "stopped_by": "samples",
            "warmup_calls": ready["warmup_calls"],
            "steady": ready["steady"],
            "cache": "cold" if self.device == "cuda" else "rotating",
            "in_turn": True,
        }
        return Round(
            number=number, started=started, status="ok", samples_s=samples_s, sampling=sampling, **facts["facts"]
        )

    def _samples(
        self, sides: list[Fighter], ready: list[dict[str, Any] | Failure], draw: random.Random
    ) -> tuple[list[list[float]], int, list[Failure | None]]:
        """Both sides' samples, the i-th of one taken beside the i-th of the other."""
        failed = [each if isinstance(each, Failure) else None for each in ready]
        samples: list[list[float]] = [[], []]
        warm = [each["fastest_s"] for each in ready if isinstance(each, dict)]
        if not warm:
            return samples, 1, failed
        slower_s = max(*warm, 1e-9)
        calls = max(1, round(_SAMPLE_SECONDS / slower_s))
        each = _CUDA_SAMPLES if self.device == "cuda" else 1
        affordable = int(self.measure.max_seconds / (4 * calls * each * slower_s))
        for _ in range(max(_FEWEST_QUADS, min(_QUADS, affordable))):
            first = draw.randrange(2)
            for index in (first, 1 - first, 1 - first, first):
                if failed[index]:
                    continue  # the other side is measured all the same: that it works is half the answer
                answer = sides[index].ask("sampled", ask="sample", samples=each, calls=calls)
                if isinstance(answer, Failure):
                    failed[index] = answer
                else:
                    samples[index] += answer["seconds"]
        return samples, calls, failed
