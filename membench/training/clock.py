"""What a run has spent so far of each thing that a budget can be of."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from membench.errors import UsageError
from membench.layers.spec import ModelSpec, Step
from membench.learning.settings import Stop
from membench.machine.energy import NO_DEVICE, EnergyCounter

_ENERGY_AGE_S = 0.02  # a counter moves no faster, and reading it costs a part of a small step


class Spent(NamedTuple):
    """``seconds`` and ``joules`` (None: unknown) of training, and what time it is (``now``, by a monotonic clock)."""

    seconds: float
    joules: float | None
    now: float


class Clock:
    """Counts updates, tokens and FLOPs; and inside ``running``, which leaves evaluations out, seconds and joules.

    FLOPs are those of forward and backward passes as the model's cost counts them, without the optimizer's.

    Args:
        energy: whether this process reads its device's counter; else another one does, or joules are unknown.
        agree: makes of what this process has spent what all that train together have, the same for all, which call it
            alike; None: this one is alone.
        each_step: whether that is done after each update, as where time decides what comes next; else where training
            pauses.

    Raises:
        UsageError: training is to stop at joules, and this device has no counter of them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        stop: Stop,
        device: torch.device,
        *,
        energy: bool = True,
        agree: Callable[[Spent], Spent] | None = None,
        each_step: bool = False,
    ) -> None:
        self.steps, self.tokens, self.flops = 0, 0.0, 0.0
        self._spec, self._stop, self._device = spec, stop, device
        self._counter = EnergyCounter(device.type if energy else NO_DEVICE)
        self._agree, self._each_step = agree, each_step or stop.at in ("seconds", "joules")
        self._seconds, self._joules = 0.0, 0.0
        self._joules_before = 0.0  # of a run that was taken up: those of all processes
        self._since: float | None = None  # when what is running began
        self._read: tuple[float, list[float]] = (0.0, [])  # when the counter was read, and what it said
        self._flops_of: dict[tuple[int, int], float] = {}
        # of a process that leaves the counter to another one, nothing is unknown
        self._unknown = None if energy or agree is None else 0.0
        self._settled: Spent | None = None
        self._settle()
        if stop.at == "joules" and self.joules is None:
            raise UsageError(
                "no energy counter of this device can be read; stop at seconds, flops, tokens or steps instead",
                key="training.stop.joules",
            )

    def took(self, sequences: int, new_tokens: int) -> None:
        """One more update, from so many sequences of so many tokens each."""
        self.steps += 1
        self.tokens += sequences * new_tokens
        self.flops += self._flops(sequences, new_tokens)
        if self._each_step:
            self._settle()

    @property
    def seconds(self) -> float:
        """Of training."""
        return self._own_seconds if self._settled is None else self._settled.seconds

    @property
    def joules(self) -> float | None:
        """Of training; None: there is no counter."""
        joules = self._own_joules if self._settled is None else self._settled.joules
        return None if joules is None else self._joules_before + joules

    @property
    def now(self) -> float:
        """What time it is, by a clock that never goes back."""
        return time.monotonic() if self._settled is None else self._settled.now

    @property
    def _own_seconds(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def _own_joules(self) -> float | None:
        if self._counter.source is None:
            return self._unknown
        if self._since is not None and time.perf_counter() - self._read[0] > _ENERGY_AGE_S:
            self._read_energy()
        return self._joules

    def _settle(self) -> None:
        if self._agree is not None:
            self._settled = self._agree(Spent(self._own_seconds, self._own_joules, time.monotonic()))

    @property
    def share(self) -> float:
        """Of the budget, spent; 1 and more: it is used up."""
        return (getattr(self, self._stop.at) or 0.0) / self._stop.amount

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, time is of training; a GPU is waited for at its end."""
        self._read = (time.perf_counter(), self._counter.read())
        self._since = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            if self._counter.source is not None:
                self._read_energy()
            self._seconds, self._since = self._own_seconds, None
        self._settle()  # not where an error has ended it, which others know nothing of

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        counted = {"steps": self.steps, "tokens": self.tokens, "flops": self.flops}
        return counted | {"seconds": self.seconds, "joules": self.joules}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        self.steps, self.tokens, self.flops = state["steps"], state["tokens"], state["flops"]
        self._seconds, self._joules_before = state["seconds"], state["joules"] or 0.0
        self._settle()

    def _read_energy(self) -> None:
        now = self._counter.read()
        self._joules += self._counter.spent_j(self._read[1], now) or 0.0
        self._read = (time.perf_counter(), now)

    def _flops(self, sequences: int, new_tokens: int) -> float:
        shape = (sequences, new_tokens)
        if shape not in self._flops_of:
            self._flops_of[shape] = training_flops(self._spec, *shape)
        return self._flops_of[shape]


def training_flops(spec: ModelSpec, sequences: int, new_tokens: int) -> float:
    """Of a forward and backward pass of so many sequences of so many tokens."""
    return spec.cost(Step(sequences * new_tokens, "forward_backward", sequences=sequences)).flops
