"""One round of an ab: two fresh processes of the same cases, timed in turn.

What a shared machine does to one sample it does to the next one too, so the sides alternate
sample by sample (A B B A, in random order) and neighbours are compared. What differs from
process to process (where memory came to lie) is what rounds are for; whoever is started, built and
prepared first is drawn anew in each round, so that no side has it better in all of them.
"""

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from membench.case import Case
from membench.provenance import utc_now
from membench.records import Round, Status
from membench.runner import Build
from membench.sections import Measure
from membench.worker import Job
from membench.worker_process import WorkerDied, WorkerProcess

MODULE = "membench.ab.worker"
Environments = tuple[dict[str, str], dict[str, str]]
Rounds = tuple[Round, Round]
_QUADS = 30  # A B B A so often: sixty samples a side
_FEWEST_QUADS = 8
_SAMPLE_SECONDS = 1e-3  # shorter calls are timed several at a time
_CUDA_SAMPLES = 3  # of one turn: a turn's first wakes the device


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a side has no samples of a case."""

    status: Status
    reason: str


class Fighter:
    """One side's process."""

    def __init__(self, process: WorkerProcess, timeout_s: float, report: Callable[[str], None]) -> None:
        self.process, self.timeout_s, self.report = process, timeout_s, report
        self.dead: Failure | None = None

    def tell(self, **question: Any) -> None:
        """A question, answered later."""
        self.process.ask(json.dumps(question))

    def hear(self, wanted: str) -> dict[str, Any] | Failure:
        """The event wanted, or why it will not come."""
        while self.dead is None:
            try:
                event = self.process.next_event(self.timeout_s)
            except WorkerDied as death:
                self.dead = Failure(death.status, death.reason)
                break
            if event["event"] == "progress":
                self.report(event["doing"])
            elif event["event"] == "case_failed":
                return Failure(event["status"], event["reason"])
            elif event["event"] == wanted:
                return event
        assert self.dead is not None
        return self.dead

    def ask(self, wanted: str, **question: Any) -> dict[str, Any] | Failure:
        """The answer to a question, or why there is none."""
        if self.dead:
            return self.dead
        self.tell(**question)
        return self.hear(wanted)


@dataclass(slots=True)
class Turn:
    """One case of one round on one side."""

    side: Fighter
    ready: dict[str, Any] | Failure | None = None
    samples_s: list[float] = field(default_factory=list)
    facts: dict[str, Any] | Failure | None = None

    @property
    def failure(self) -> Failure | None:
        return next((each for each in (self.ready, self.facts) if isinstance(each, Failure)), None)


class Duel:
    """Rounds of any build on two sides. ``origins``: the files that each side's layers were imported from."""

    def __init__(
        self, environments: Environments, device: str, measure: Measure, report: Callable[[str], None]
    ) -> None:
        self.environments, self.device, self.measure, self.report = environments, device, measure, report
        self.origins: tuple[set[str], set[str]] = (set(), set())

    def run(self, build: Build, number: int, finished: Callable[[Case, Rounds], None]) -> None:
        """One round of every case of a build; ``finished`` gets each as soon as it is done."""
        draw = random.Random(f"{build.arm} {number}")
        left = list(build.cases)
        draw.shuffle(left)
        while left:  # a death is its case's alone: those that are left get new processes
            left = self._run_processes(left, number, draw, finished)

    def _run_processes(
        self, cases: list[Case], number: int, draw: random.Random, finished: Callable[[Case, Rounds], None]
    ) -> list[Case]:
        """As many cases as both processes live for; returns those that are left."""
        job = Job.of(cases, self.device, self.measure)
        self.report(f"{cases[0].arm}: building")
        with ExitStack() as stack:
            sides: dict[int, Fighter] = {}
            for index in _shuffled(draw):
                environment = self.environments[index]
                process = WorkerProcess(job.model_dump_json(), self.measure.threads, MODULE, environment, asked=True)
                sides[index] = Fighter(stack.enter_context(process), self.measure.timeout_seconds, self.report)
            for index, side in sides.items():
                built = side.hear("built")
                if isinstance(built, dict):
                    self.origins[index].add(built["origin"])
            could_build = not any(side.dead for side in sides.values())
            for position, case in enumerate(cases):
                self.report(f"{case.arm} {case.mode}: in turn")
                finished(case, self._case(case, position, sides, number, draw))
                if could_build and any(side.dead for side in sides.values()):
                    return cases[position + 1 :]
        return []

    def _case(self, case: Case, position: int, sides: dict[int, Fighter], number: int, draw: random.Random) -> Rounds:
        started = utc_now()
        turns = [Turn(sides[index]) for index in range(len(sides))]
        for index in _shuffled(draw):
            turns[index].ready = turns[index].side.ask("prepared", ask="prepare", index=position)
        calls, stopped_by = self._sample(turns, draw)
        for index in _shuffled(draw):
            if not turns[index].failure:
                turns[index].facts = turns[index].side.ask("facts", ask="facts")
        found = [self._round(number, started, turn, calls, stopped_by) for turn in turns]
        return found[0], found[1]

    def _sample(self, turns: list[Turn], draw: random.Random) -> tuple[int, str]:
        """Both sides' samples, the i-th of one taken beside the i-th of the other. Returns calls a sample and the stop.

        A side that fails leaves the other to be measured all the same: that it works is half the answer.
        """
        warm = [turn.ready["fastest_s"] for turn in turns if isinstance(turn.ready, dict)]
        slower_s = max(*warm, 1e-9) if warm else 1e-9
        calls = max(1, round(_SAMPLE_SECONDS / slower_s))
        each = _CUDA_SAMPLES if self.device == "cuda" else 1
        affordable = int(self.measure.max_seconds / (4 * calls * each * slower_s))
        for _ in range(max(_FEWEST_QUADS, min(_QUADS, affordable))):
            first, second = _shuffled(draw)
            for index in (first, second, second, first):
                turn = turns[index]
                if turn.failure:
                    continue
                answer = turn.side.ask("sampled", ask="sample", samples=each, calls=calls)
                if isinstance(answer, Failure):
                    turn.ready = answer
                else:
                    turn.samples_s += answer["seconds"]
        return calls, "samples" if affordable >= _QUADS else "time"

    def _round(self, number: int, started: str, turn: Turn, calls: int, stopped_by: str) -> Round:
        if turn.failure:
            return Round(number=number, started=started, status=turn.failure.status, reason=turn.failure.reason)
        assert isinstance(turn.ready, dict)
        assert isinstance(turn.facts, dict)
        sampling = {
            "calls_per_sample": calls,
            "stopped_by": stopped_by,
            "warmup_calls": turn.ready["warmup_calls"],
            "steady": turn.ready["steady"],
            "cache": "cold" if self.device == "cuda" else "rotating",
            "in_turn": True,
        }
        measured = {"samples_s": turn.samples_s, "sampling": sampling, **turn.facts["facts"]}
        return Round(number=number, started=started, status="ok", **measured)


def _shuffled(draw: random.Random) -> tuple[int, int]:
    """Both sides, in random order."""
    first = draw.randrange(2)
    return first, 1 - first
