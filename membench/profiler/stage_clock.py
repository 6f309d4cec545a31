"""Times the stages of a step, by the host's clock or CUDA events; torch's profiler would slow what it watches."""

import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch

from membench.profiler.follower import StageFollower
from membench.results.profile import StageKey


class StageClock(StageFollower):
    """The seconds of every stage of the last step.

    One mark at each change of stage; the time up to the next mark is the stage's, so the stages
    and the rest add up to the step by themselves.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self._cuda = device == "cuda"
        self._marks: list[tuple[StageKey | None, Any]] = []

    def begin(self) -> None:
        self._marks.clear()
        super().begin()

    def moved(self, key: StageKey | None) -> None:
        self._marks.append((key, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[StageKey, float]:
        """By stage, in the order in which they first ran. On CUDA the device must have been waited for."""
        sums: dict[StageKey, float] = defaultdict(float)
        for (key, begin), (_, end) in pairwise(self._marks):
            if key is not None:
                sums[key] += begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
        return dict(sums)
