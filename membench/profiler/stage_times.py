"""How long each stage of a step takes: the same step observed and not, in turns, averaged over its middling calls."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from membench.layers.kernels.stages import observed_by
from membench.layers.layer import Layer, Routing
from membench.measuring.implementations import Call
from membench.measuring.time import Clock, StepCall, warm_up
from membench.profiler.follower import StageFollower
from membench.profiler.stage_clock import StageClock
from membench.results.profile import StageKey


@dataclass(frozen=True, slots=True)
class Budget:
    """How many calls to observe: ``most``, unless ``seconds`` end first and there are ``least``."""

    least: int = 8
    most: int = 60
    seconds: float = 10.0
    warmup_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds a step: by stage and in all when observed, and of a step that nobody observes."""

    stages: dict[StageKey, float]
    observed_s: float
    alone_s: float
    calls: int
    steady: bool


def followed(layer: Layer, follower: StageFollower) -> Call:
    """The layer, its graph followed into the backward."""

    def call(x: Tensor, routing: Routing | None) -> Tensor:
        y = layer(x, routing)
        follower.follow(y, layer.auxiliary_loss)
        return y

    return call


def observed(step: StepCall, follower: StageFollower) -> StepCall:
    """The step with every stage of it told to ``follower``; the step must use a ``followed`` layer."""

    def run(i: int) -> None:
        with observed_by(follower):
            follower.begin()
            step(i)
            follower.end()

    return run


def time_stages(clock: Clock, alone: StepCall, watched: StepCall, stages: StageClock, budget: Budget) -> StageTimes:
    """Times both steps in turns, on inputs that go on rotating.

    Args:
        alone: the step as it is.
        watched: the same, ``observed`` by ``stages``.
    """
    warmup_calls, steady, _ = warm_up(clock, alone, budget.warmup_seconds)
    inputs = count(warmup_calls)
    _call_seconds(clock, watched, inputs)
    alone_s: list[float] = []
    parts: list[dict[StageKey, float]] = []
    begin = time.perf_counter()
    while len(parts) < budget.most:
        if time.perf_counter() - begin >= budget.seconds and len(parts) >= budget.least:
            break
        if len(parts) % 2:  # neither is always first, nor always on the same inputs
            alone_s.append(_call_seconds(clock, alone, inputs))
        _call_seconds(clock, watched, inputs)
        parts.append(stages.seconds())
        if len(parts) % 2:
            alone_s.append(_call_seconds(clock, alone, inputs))
    means = mean_of_middle(parts)
    return StageTimes(
        stages=means,
        observed_s=sum(means.values()),
        alone_s=sum(mean_of_middle([{StageKey("step"): seconds} for seconds in alone_s]).values()),
        calls=len(parts),
        steady=steady,
    )


def mean_of_middle(calls: Sequence[dict[StageKey, float]]) -> dict[StageKey, float]:
    """The mean, stage by stage, over the half of the calls whose whole time is neither short nor long.

    As unmoved by outliers as a median, but the stages' means add up to the whole's.
    """
    ranked = sorted(calls, key=lambda call: sum(call.values()))
    cut = len(ranked) // 4
    middle = ranked[cut : len(ranked) - cut]
    keys = dict.fromkeys(key for call in calls for key in call)
    return {key: sum(call.get(key, 0.0) for call in middle) / len(middle) for key in keys}


def _call_seconds(clock: Clock, step: StepCall, inputs: Iterator[int]) -> float:
    """One call; on CUDA with the L2 cache flushed before it."""
    if clock.device == "cuda":
        return clock.queued_seconds(step, inputs, 1, cold=True)[0]
    return clock.seconds(step, inputs, 1)
