"""Time: warm up until steady, then sample until there are enough samples or the time is spent.

A sample is one or more calls in a row, long enough for the clock. On CUDA it is read from
events; the L2 cache is flushed before each sample (cold) or left as it is (hot).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch

Step = Callable[[int], object]  # one call of what is measured, on input number i

# A CPU sample of half a millisecond is ten thousand ticks of the clock; an event pair resolves about 1 us.
_SAMPLE_SECONDS = {"cpu": 0.5e-3, "cuda": 0.0}
_STEADY_CALLS = 3
_STEADY_WITHIN = 0.03
_WARMUP_LIMIT = 6  # times the asked warm-up, after which an unsteady case is sampled all the same


@dataclass(frozen=True, slots=True)
class Sampling:
    """How long to measure."""

    min_samples: int
    floor_samples: int
    max_seconds: float
    warmup_seconds: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw seconds a call, and how they came about."""

    seconds: list[float]
    calls_per_sample: int
    stopped_by: Literal["samples", "time"]
    warmup_calls: int
    steady: bool
    cache: Literal["rotating", "cold", "hot"]

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

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, step: Step, inputs: Iterator[int], calls: int, *, cold: bool = False) -> float:
        """Seconds a call of ``calls`` calls in a row."""
        if self.device != "cuda":
            begin = time.perf_counter()
            for _ in range(calls):
                step(next(inputs))
            return (time.perf_counter() - begin) / calls
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if cold and self._flush is not None:
            self._flush.zero_()
        begin_event.record()
        for _ in range(calls):
            step(next(inputs))
        end_event.record()
        torch.cuda.synchronize()
        return begin_event.elapsed_time(end_event) / 1e3 / calls


def warm_up(clock: Clock, step: Step, seconds: float) -> tuple[int, bool, float]:
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


def sample(clock: Clock, step: Step, sampling: Sampling, *, cold: bool | None = None) -> Samples:
    """Raw samples of a step.

    ``min_samples`` samples, unless ``max_seconds`` ends first and there are ``floor_samples``.
    ``cold`` is for CUDA: flush the L2 cache before each sample; on a CPU the rotating inputs
    do what can be done.
    """
    warmup_calls, steady, fastest = warm_up(clock, step, sampling.warmup_seconds)
    calls = 1 if cold else max(1, round(_SAMPLE_SECONDS[clock.device] / max(fastest, 1e-9)))
    inputs = count(warmup_calls)
    seconds: list[float] = []
    begin = time.perf_counter()
    stopped_by: Literal["samples", "time"] = "samples"
    while len(seconds) < sampling.min_samples:
        if time.perf_counter() - begin >= sampling.max_seconds and len(seconds) >= sampling.floor_samples:
            stopped_by = "time"
            break
        seconds.append(clock.seconds(step, inputs, calls, cold=bool(cold)))
    cache = "rotating" if clock.device == "cpu" else ("cold" if cold else "hot")
    return Samples(seconds, calls, stopped_by, warmup_calls, steady, cache)
