"""Time: warm up until steady, then sample until there are enough samples or the time is spent.

On a CPU a sample is one or more calls in a row, long enough for the clock. On CUDA it is one
call between two events; the L2 cache is flushed before each (cold) or left as it is (hot).

With a watch, samples that others disturbed are taken again: see ``membench.measuring.retaking``.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, repeat
from typing import Any, Literal

import torch

from membench.machine.disturbance import Watch
from membench.measuring.retaking import WINDOW_S, Retaking

StepCall = Callable[[int], object]  # makes one step, on input number i

_SAMPLE_SECONDS = 0.5e-3  # on a CPU: thousands of ticks of the clock
_STEADY_CALLS = 3
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
class Samples:
    """Raw seconds a call, and how they came about.

    ``disturbed`` are those kept apart, and ``disturbance`` says what the watch saw; empty without a watch.
    """

    seconds: list[float]
    calls_per_sample: int
    stopped_by: Literal["samples", "time"]
    warmup_calls: int
    steady: bool
    cache: Literal["rotating", "cold", "hot"]
    disturbed: list[float] = field(default_factory=list)
    disturbance: dict[str, Any] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


class Clock:
    """Times calls on one device; ``synchronize`` waits for it."""

    def __init__(self, device: str) -> None:
        self.device = device
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

    def seconds(self, step: StepCall, inputs: Iterator[int], calls: int) -> float:
        """Seconds a call of ``calls`` calls in a row, the device idle before and after."""
        self.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            step(next(inputs))
        self.synchronize()
        return (time.perf_counter() - begin) / calls

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
        return [begin.elapsed_time(end) / 1e3 for begin, end in marks]


def warm_up(clock: Clock, step: StepCall, seconds: float) -> tuple[int, bool, float]:
    """Call until the last three calls are no faster than those before by more than 3 %.

    Returns:
        Calls made, whether it became steady, and the seconds of the fastest late call.
    """
    inputs, times = count(), []
    begin = time.perf_counter()
    while True:
        times.append(clock.seconds(step, inputs, 1))
        spent = time.perf_counter() - begin
        earlier, latest = times[:-_STEADY_CALLS], times[-_STEADY_CALLS:]
        steady = bool(earlier) and min(latest) >= (1 - _STEADY_WITHIN) * min(earlier)
        if (spent >= seconds and steady) or (len(times) > _STEADY_CALLS and spent >= _WARMUP_LIMIT * seconds):
            return len(times), steady, min(latest)


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
    warmup_calls, steady, fastest_s = warm_up(clock, step, sampling.warmup_seconds)
    if watch:
        watch.mark()
    if clock.device == "cuda":
        return _queued(clock, step, sampling, (warmup_calls, steady, fastest_s), cold, watch)
    calls = max(1, round(_SAMPLE_SECONDS / max(fastest_s, 1e-9)))
    inputs, taken = count(warmup_calls), Retaking(sampling, watch)
    begin = time.perf_counter()
    while wanted := taken.wanted(time.perf_counter() - begin):
        window_begin, seconds = time.perf_counter(), [clock.seconds(step, inputs, calls)]
        while watch and len(seconds) < wanted and time.perf_counter() - window_begin < WINDOW_S:
            seconds.append(clock.seconds(step, inputs, calls))
        judged = time.perf_counter()
        if pass_s := taken.add(seconds, judged - window_begin):
            while time.perf_counter() - judged < pass_s:
                clock.seconds(step, inputs, calls)
            taken.passed(time.perf_counter() - judged)
    kept, apart, disturbance = taken.samples()
    return Samples(kept, calls, taken.stopped_by, warmup_calls, steady, "rotating", apart, disturbance)


def _queued(
    clock: Clock,
    step: StepCall,
    sampling: Sampling,
    warm: tuple[int, bool, float],
    cold: bool,
    watch: Watch | None,
) -> Samples:
    """CUDA's samples, all in one queue; a batch that is disturbed is taken again as a whole."""
    warmup_calls, steady, fastest_s = warm
    affordable = min(sampling.min_samples, int(sampling.max_seconds / fastest_s))
    samples = max(sampling.floor_samples, affordable)
    inputs = count(warmup_calls) if cold else repeat(0)
    taken = Retaking(replace(sampling, min_samples=samples), watch)
    begin = time.perf_counter()
    while taken.wanted(time.perf_counter() - begin):
        batch_begin = time.perf_counter()
        seconds = clock.queued_seconds(step, inputs, samples, cold=cold)
        taken.add(seconds, time.perf_counter() - batch_begin)
    kept, apart, disturbance = taken.samples()
    stopped_by = "samples" if samples >= sampling.min_samples else "time"
    return Samples(kept, 1, stopped_by, warmup_calls, steady, "cold" if cold else "hot", apart, disturbance)
