"""Time: warm up until steady, then sample until there are enough samples or the time is spent.

On a CPU a sample is one or more calls in a row, long enough for the clock. On CUDA it is one
call between two events; the L2 cache is flushed before each (cold) or left as it is (hot).

With a watch, samples that others disturbed are taken again: see ``membench.measuring.retaking``.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any, Literal, NamedTuple, Self

import torch

from membench.machine.disturbance import Watch
from membench.measuring.in_step import Alone
from membench.measuring.retaking import Retaking, StoppedBy, Taken

StepCall = Callable[[int], object]  # makes one step, on input number i
CacheState = Literal["rotating", "cold", "hot"]  # what the caches hold before each sample

_SAMPLE_SECONDS = 0.5e-3  # on a CPU: thousands of ticks of the clock
_STEADY_CALLS = 3
_LONG_SECONDS = 0.1  # of such a call one late one tells as much: it goes through more than any cache holds
_STEADY_WITHIN = 0.03
_WARMUP_LIMIT = 6  # times the asked warm-up, after which an unsteady case is sampled all the same


@dataclass(frozen=True, slots=True)
class Sampling:
    """How long to measure. ``retake_seconds`` come on top, where samples are disturbed."""

    min_samples: int
    floor_samples: int
    max_seconds: float
    warmup_seconds: float
    retake_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pass:
    """A step of several calls that are not timed apart."""

    calls: int
    make: StepCall

    def __call__(self, i: int) -> object:
        return self.make(i)


def calls_in(step: StepCall) -> int:
    """How many calls a step makes."""
    return step.calls if isinstance(step, Pass) else 1


class Warm(NamedTuple):
    """A warm-up: calls made, whether it became steady, and the seconds of the fastest late call."""

    calls: int
    steady: bool
    fastest_s: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw seconds a call, and how they came about.

    ``disturbed`` are those kept apart, and ``disturbance`` says what the watch saw; empty without a watch.
    """

    seconds: list[float]
    calls_per_sample: int
    stopped_by: StoppedBy
    warmup_calls: int
    steady: bool
    cache: CacheState
    disturbed: list[float] = field(default_factory=list)
    disturbance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, taken: Taken[float], calls: int, warm: Warm, cache: CacheState) -> Self:
        """What came of a sampling, of samples of so many calls."""
        return cls(
            seconds=taken.kept,
            calls_per_sample=calls,
            stopped_by=taken.stopped_by,
            warmup_calls=warm.calls,
            steady=warm.steady,
            cache=cache,
            disturbed=taken.apart,
            disturbance=taken.disturbance,
        )

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


class Clock:
    """Times calls on one device; ``synchronize`` waits for it.

    ``ranks`` that measure together begin together, and a time is the slowest one's.
    """

    def __init__(self, device: str, ranks: Alone | None = None) -> None:
        self.device, self.ranks = device, ranks or Alone()
        self._flush: torch.Tensor | None = None
        if device == "cuda":
            cache_bytes = torch.cuda.get_device_properties(0).L2_cache_size
            self._flush = torch.empty(4 * cache_bytes, dtype=torch.int8, device="cuda")

    @property
    def own_bytes(self) -> int:
        """Device memory this clock holds itself."""
        return 0 if self._flush is None else self._flush.nbytes

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, step: StepCall, inputs: Iterator[int], steps: int) -> float:
        """Seconds a call of so many steps in a row, the device idle before and after."""
        self.synchronize()
        self.ranks.meet()
        begin = time.perf_counter()
        for _ in range(steps):
            step(next(inputs))
        self.synchronize()
        return self.ranks.seconds([(time.perf_counter() - begin) / (steps * calls_in(step))])[0]

    def queued_seconds(self, step: StepCall, inputs: Iterator[int], samples: int, *, cold: bool) -> list[float]:
        """CUDA: seconds of so many calls, queued together so that the host is waited for only where it is slower.

        ``cold`` writes over the L2 cache before each; else the queue is filled by one such write.
        """
        assert self._flush is not None
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(samples)]
        self._flush.zero_()
        for begin, end in marks:
            if cold:
                self._flush.zero_()
            begin.record()
            step(next(inputs))
            end.record()
        torch.cuda.synchronize()
        return self.ranks.seconds([begin.elapsed_time(end) / 1e3 for begin, end in marks])


def warm_up(clock: Clock, step: StepCall, seconds: float) -> Warm:
    """Call until the last three calls are no faster than those before by more than 3 %.

    Of calls that take more than a tenth of a second the last one alone, so that two calls may do.
    """
    inputs, times, now = count(), [], clock.ranks.now
    begin = now()
    while True:
        times.append(clock.seconds(step, inputs, 1))
        spent = now() - begin
        late = _STEADY_CALLS if min(times) < _LONG_SECONDS else 1
        earlier, latest = times[:-late], times[-late:]
        steady = bool(earlier) and min(latest) >= (1 - _STEADY_WITHIN) * min(earlier)
        if (spent >= seconds and steady) or (len(times) > late and spent >= _WARMUP_LIMIT * seconds):
            return Warm(len(times) * calls_in(step), steady, min(latest))


def bundled(step: StepCall, call_s: float) -> int:
    """How many steps make a sample on a CPU, whose calls take so many seconds each."""
    return max(1, round(_SAMPLE_SECONDS / max(call_s * calls_in(step), 1e-9)))


def affordable(sampling: Sampling, sample_s: float) -> int:
    """How many samples of one queue the time allows: at least ``floor_samples``, at most ``min_samples``."""
    return max(sampling.floor_samples, min(sampling.min_samples, int(sampling.max_seconds / sample_s)))


def sample(
    clock: Clock, step: StepCall, sampling: Sampling, *, cold: bool = True, watch: Watch | None = None
) -> Samples:
    """Raw samples of a step.

    ``min_samples`` samples, unless ``max_seconds`` ends first and there are ``floor_samples``.
    ``cold`` is for CUDA: flush the L2 cache before each sample, or (hot) leave it and repeat one
    input. On a CPU the rotating inputs do what can be done. What ``watch`` finds disturbed is taken
    again, for ``retake_seconds`` at most.
    """
    if watch:
        watch.begin()
    warm = warm_up(clock, step, sampling.warmup_seconds)
    if watch:
        watch.mark()
    if clock.device == "cuda":
        samples, calls = affordable(sampling, warm.fastest_s), 1
        inputs = count(warm.calls) if cold else repeat(0)
        taking = Retaking[float](sampling, watch, samples, now=clock.ranks.now)
        taking.take_batches(lambda: clock.queued_seconds(step, inputs, samples, cold=cold))
    else:
        steps, inputs = bundled(step, warm.fastest_s), count(warm.calls)
        calls = steps * calls_in(step)
        taking = Retaking[float](sampling, watch, now=clock.ranks.now)
        taking.take(lambda: clock.seconds(step, inputs, steps), lambda: clock.seconds(step, inputs, steps))
    cache = "rotating" if clock.device != "cuda" else "cold" if cold else "hot"
    return Samples.of(taking.taken(), calls, warm, cache)
