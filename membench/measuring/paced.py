"""Samples of a step timed in turn with a pacer: one of each, again and again.

Beside every time stands how long the thread was on its core. It lacks what other processes took by putting this one
off the core, which no code of a layer can cause, and nothing else: where the thread gave the core away itself, all of
the time counts.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, cycle

from membench.measuring.time import Clock, Samples, Sampling, StepCall, bundled, warm_up

try:
    import resource
except ImportError:  # Windows
    resource = None

_OF_THREAD = getattr(resource, "RUSAGE_THREAD", None)  # Linux alone


@dataclass(frozen=True, slots=True)
class Turns:
    """Raw seconds a call of one side; ``on_core_s`` is empty where the system does not tell."""

    calls: int
    seconds: list[float] = field(default_factory=list)
    on_core_s: list[float] = field(default_factory=list)

    @property
    def own_s(self) -> list[float]:
        """Without what others took, as far as that is known."""
        return self.on_core_s or self.seconds

    def take(self, clock: Clock, step: StepCall, inputs: Iterator[int]) -> None:
        """One more sample."""
        gave_away, on_core = gave_core_away(), time.thread_time()
        self.seconds.append(clock.seconds(step, inputs, self.calls))
        on_core = (time.thread_time() - on_core) / self.calls
        if gave_away is not None:
            taken = self.seconds[-1]
            self.on_core_s.append(min(taken, on_core) if gave_core_away() == gave_away else taken)


def gave_core_away() -> int | None:
    """How often this thread waited by itself; None where that is not known."""
    return None if resource is None or _OF_THREAD is None else resource.getrusage(_OF_THREAD).ru_nvcsw


def sample_in_turn(clock: Clock, step: StepCall, pacer: StepCall, sampling: Sampling) -> tuple[Samples, Turns, Turns]:
    """Samples of the step, its turns and the pacer's, the i-th of which is taken right after the i-th of the step.

    ``min_samples`` of each, unless ``max_seconds`` ends first and there are ``floor_samples``. On CUDA all are in one
    queue, the L2 cache flushed before each.
    """
    warmup_calls, steady, fastest_s = warm_up(clock, step, sampling.warmup_seconds)
    _, _, pacer_s = warm_up(clock, pacer, 0.0)
    if clock.device == "cuda":
        affordable = int(sampling.max_seconds / (fastest_s + pacer_s))
        samples = max(sampling.floor_samples, min(sampling.min_samples, affordable))
        own, paced = Turns(1), Turns(1)
        sides = cycle((step, pacer))
        seconds = clock.queued_seconds(
            lambda i: next(sides)(i), _each_twice(count(warmup_calls)), 2 * samples, cold=True
        )
        own.seconds[:], paced.seconds[:] = seconds[::2], seconds[1::2]
    else:
        own, paced = Turns(bundled(fastest_s)), Turns(bundled(pacer_s))
        inputs, rows, begin = count(warmup_calls), count(), time.perf_counter()
        while len(own.seconds) < sampling.min_samples:
            if time.perf_counter() - begin >= sampling.max_seconds and len(own.seconds) >= sampling.floor_samples:
                break
            own.take(clock, step, inputs)
            paced.take(clock, pacer, rows)
    stopped_by = "samples" if len(own.seconds) >= sampling.min_samples else "time"
    cache = "cold" if clock.device == "cuda" else "rotating"
    return Samples(own.seconds, own.calls, stopped_by, warmup_calls, steady, cache), own, paced


def _each_twice(numbers: Iterator[int]) -> Iterator[int]:
    """For the step, and for the pacer behind it."""
    return (number for number in numbers for _ in range(2))
