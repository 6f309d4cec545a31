"""One round of an ab: two fresh processes of the same cases, timed in turn.

What a shared machine does to one sample it does to the next one too, so the sides alternate
sample by sample (A B B A, in random order) and neighbours are compared. What differs from
process to process (where memory came to lie) is what rounds are for; whoever is started, built and
prepared first is drawn anew in each round, so that no side has it better in all of them.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from membench.case import Case
from membench.machine.provenance import utc_now
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.results.records import Round
from membench.running.protocol import Build, Built, Found, PrepareCase, Prepared, Sampled, TakeSamples, TellFacts
from membench.running.runner import BuildGroup
from membench.scenario.settings import Measure

MODULE = "membench.ab.worker"
Rounds = tuple[Round, Round]
_QUADS = 30  # A B B A so often: sixty samples a side
_FEWEST_QUADS = 8
_SAMPLE_SECONDS = 1e-3  # shorter calls are timed several at a time
_CUDA_SAMPLES = 3  # of one turn: a turn's first wakes the device


@dataclass(frozen=True, slots=True)
class SideCode:
    """What one side's processes run: see ``ChildProcess``."""

    home: Path
    folders: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(slots=True)
class Turn:
    """One case of one round on one side."""

    side: ChildProcess
    ready: Prepared | Failed | None = None
    samples_s: list[float] = field(default_factory=list)
    facts: Found | Failed | None = None

    @property
    def failure(self) -> Failed | None:
        return next((each for each in (self.ready, self.facts) if isinstance(each, Failed)), None)


class RoundsInTurn:
    """Rounds of any build on two sides. ``origins``: the files that each side's layers were imported from."""

    def __init__(
        self, code: tuple[SideCode, SideCode], device: str, measure: Measure, report: Callable[[str], None]
    ) -> None:
        self.code, self.device, self.measure, self.report = code, device, measure, report
        self.origins: tuple[set[str], set[str]] = (set(), set())

    def run(self, build: BuildGroup, number: int, finished: Callable[[Case, Rounds], None]) -> None:
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
        job = Build.of(cases, self.device, self.measure)
        self.report(f"{cases[0].arm}: building")
        with ExitStack() as stack:
            sides = {index: stack.enter_context(self._process(self.code[index])) for index in _shuffled(draw)}
            for side in sides.values():
                side.tell(job)
            for index, side in sides.items():
                built = side.hear(Built)
                if isinstance(built, Built):
                    self.origins[index].add(built.origin)
            could_build = not any(side.dead for side in sides.values())
            for position, case in enumerate(cases):
                self.report(f"{case.arm} {case.mode}: in turn")
                finished(case, self._case(case, position, sides, number, draw))
                if could_build and any(side.dead for side in sides.values()):
                    return cases[position + 1 :]
        return []

    def _process(self, code: SideCode) -> ChildProcess:
        return ChildProcess(
            MODULE,
            threads=self.measure.threads,
            timeout_seconds=self.measure.timeout_seconds,
            report=self.report,
            environment=code.environment,
            home=code.home,
            folders=code.folders,
        )

    def _case(
        self, case: Case, position: int, sides: dict[int, ChildProcess], number: int, draw: random.Random
    ) -> Rounds:
        started = utc_now()
        turns = [Turn(sides[index]) for index in range(len(sides))]
        for index in _shuffled(draw):
            turns[index].ready = turns[index].side.ask(PrepareCase(index=position), Prepared)
        calls, stopped_by = self._sample(turns, draw)
        for index in _shuffled(draw):
            if not turns[index].failure:
                turns[index].facts = turns[index].side.ask(TellFacts(), Found)
        found = [self._round(number, started, turn, calls, stopped_by) for turn in turns]
        return found[0], found[1]

    def _sample(self, turns: list[Turn], draw: random.Random) -> tuple[int, str]:
        """Both sides' samples, the i-th of one taken beside the i-th of the other. Returns calls a sample and the stop.

        A side that fails leaves the other to be measured all the same: that it works is half the answer.
        """
        warm = [turn.ready for turn in turns if isinstance(turn.ready, Prepared)]
        slower_s = max([1e-9, *(each.fastest_s for each in warm)])
        step = max([1, *(each.calls_in_step for each in warm)])
        calls = step * max(1, round(_SAMPLE_SECONDS / (step * slower_s)))
        each = _CUDA_SAMPLES if self.device == "cuda" else 1
        affordable = int(self.measure.max_seconds / (4 * calls * each * slower_s))
        for _ in range(max(_FEWEST_QUADS, min(_QUADS, affordable))):
            first, second = _shuffled(draw)
            for index in (first, second, second, first):
                turn = turns[index]
                if turn.failure:
                    continue
                answer = turn.side.ask(TakeSamples(samples=each, calls=calls), Sampled)
                if isinstance(answer, Failed):
                    turn.ready = answer
                else:
                    turn.samples_s += answer.seconds
        return calls, "samples" if affordable >= _QUADS else "time"

    def _round(self, number: int, started: str, turn: Turn, calls: int, stopped_by: str) -> Round:
        if turn.failure:
            return Round(number=number, started=started, status=turn.failure.status, reason=turn.failure.reason)
        assert isinstance(turn.ready, Prepared)
        assert isinstance(turn.facts, Found)
        sampling = {
            "calls_per_sample": calls,
            "stopped_by": stopped_by,
            "warmup_calls": turn.ready.warmup_calls,
            "steady": turn.ready.steady,
            "cache": "cold" if self.device == "cuda" else "rotating",
            "in_turn": True,
        }
        facts = {name: told for name, told in turn.facts.found.items() if name in Round.model_fields}
        measured = {"samples_s": turn.samples_s, "sampling": sampling, **facts}
        return Round(number=number, started=started, status="ok", **measured)


def _shuffled(draw: random.Random) -> tuple[int, int]:
    """Both sides, in random order."""
    first = draw.randrange(2)
    return first, 1 - first
