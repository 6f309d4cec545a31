"""Samples of a step timed in turn with a pacer: one of each, again and again.

Beside every time stands how long the thread was on its core. It lacks what other processes took by putting this one
off the core, which no code of a layer can cause, and nothing else: where the thread gave the core away itself, all of
the time counts.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle
from typing import NamedTuple, Self

from membench.machine.disturbance import Watch
from membench.measuring.retaking import Retaking
from membench.measuring.time import Clock, Samples, Sampling, StepCall, affordable, bundled, calls_in, warm_up

try:
    import resource
except ImportError:  # Windows
    resource = None

_OF_THREAD = getattr(resource, "RUSAGE_THREAD", None)  # Linux alone


class Timed(NamedTuple):
    """Seconds a call of one sample; ``on_core_s`` is None where the system does not tell."""

    seconds: float
    on_core_s: float | None = None

    @property
    def own_s(self) -> float:
        """Without what others took, as far as that is known."""
        return self.seconds if self.on_core_s is None else self.on_core_s


class Pair(NamedTuple):
    """A sample of the step, and the pacer's right after it."""

    own: Timed
    paced: Timed


@dataclass(frozen=True, slots=True)
class Side:
    """Raw seconds a call of one side; ``on_core_s`` is empty where the system does not tell."""

    calls: int
    seconds: list[float]
    on_core_s: list[float]

    @classmethod
    def of(cls, calls: int, turns: list[Timed]) -> Self:
        """The samples of one side, each of so many calls."""
        return cls(calls, [t.seconds for t in turns], [t.on_core_s for t in turns if t.on_core_s is not None])


class PacedSamples(NamedTuple):
    """Samples of the step, as of a sampling without a pacer, and both sides of them.

    ``follows``: for each sample, whether the one before it and its pacer were taken directly before. ``apart_s`` are
    the pacer's beside the disturbed samples that were kept apart.
    """

    samples: Samples
    own: Side
    paced: Side
    follows: list[bool]
    apart_s: list[float]


def take_turn(clock: Clock, step: StepCall, inputs: Iterator[int], steps: int) -> Timed:
    """One sample of so many steps; seconds are a call's."""
    gave_away, on_core = gave_core_away(), time.thread_time()
    seconds = clock.seconds(step, inputs, steps)
    on_core = (time.thread_time() - on_core) / (steps * calls_in(step))
    if gave_away is None:
        return Timed(seconds)
    return Timed(seconds, min(seconds, on_core) if gave_core_away() == gave_away else seconds)


def gave_core_away() -> int | None:
    """How often this thread waited by itself; None where that is not known."""
    return None if resource is None or _OF_THREAD is None else resource.getrusage(_OF_THREAD).ru_nvcsw


def sample_in_turn(
    clock: Clock, step: StepCall, pacer: StepCall, sampling: Sampling, *, watch: Watch | None = None
) -> PacedSamples:
    """Samples of the step and of the pacer, the i-th of which is taken right after the i-th of the step.

    ``min_samples`` of each, unless ``max_seconds`` ends first and there are ``floor_samples``. On CUDA all are in one
    queue, the L2 cache flushed before each. What ``watch`` finds disturbed is taken again, both of a pair.
    """
    if watch:
        watch.begin()
    warm, pacer_s = warm_up(clock, step, sampling.warmup_seconds), warm_up(clock, pacer, 0.0).fastest_s
    if watch:
        watch.mark()
    inputs, rows = count(warm.calls), count()
    if clock.device == "cuda":
        samples, calls, pacer_calls = affordable(sampling, warm.fastest_s + pacer_s), 1, 1
        taking = Retaking[Pair](sampling, watch, samples, now=clock.ranks.now)
        sides, numbers = cycle((step, pacer)), _each_twice(inputs)

        def batch() -> list[Pair]:
            seconds = clock.queued_seconds(lambda i: next(sides)(i), numbers, 2 * samples, cold=True)
            return [Pair(Timed(own), Timed(paced)) for own, paced in zip(seconds[::2], seconds[1::2], strict=True)]

        taking.take_batches(batch)
    else:
        steps, pacer_calls = bundled(step, warm.fastest_s), bundled(pacer, pacer_s)
        calls = steps * calls_in(step)
        taking = Retaking[Pair](sampling, watch, now=clock.ranks.now)
        taking.take(
            lambda: Pair(take_turn(clock, step, inputs, steps), take_turn(clock, pacer, rows, pacer_calls)),
            lambda: clock.seconds(step, inputs, steps),
        )
    taken = taking.taken()
    own, paced = Side.of(calls, [p.own for p in taken.kept]), Side.of(pacer_calls, [p.paced for p in taken.kept])
    cache = "cold" if clock.device == "cuda" else "rotating"
    found = Samples.of(taken.each(lambda p: p.own.seconds), calls, warm, cache)
    return PacedSamples(found, own, paced, taken.follows, [p.paced.seconds for p in taken.apart])


def _each_twice(numbers: Iterator[int]) -> Iterator[int]:
    """For the step, and for the pacer behind it."""
    return (number for number in numbers for _ in range(2))
