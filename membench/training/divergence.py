"""When a run has diverged: a loss or gradient that is no number, or a loss that has risen and stays up."""

import math
from collections import deque
from typing import Any

_WINDOW = 32  # steps that a mean is over: a single bad batch is no divergence
_RISE = 0.5  # of the loss of the first steps; what a run has to unlearn to come this far is no noise


class Watch:
    """Follows the losses of a run, one step after the other.

    ``reason`` is None until it has diverged, then what was seen at which step: a loss or gradient norm that is not
    finite; or a mean of the last 32 losses above the lowest such mean so far by half of the first one.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._last: deque[float] = deque(maxlen=_WINDOW)
        self._first: float | None = None
        self._lowest = math.inf

    def see(self, step: int, loss: float, gradient_norm: float | None) -> None:
        """The loss and gradient norm of step number ``step``, from 1. The first thing that was wrong counts."""
        if self.reason is not None:
            return
        if not math.isfinite(loss):
            self.reason = f"loss {loss} at step {step}"
        elif gradient_norm is not None and not math.isfinite(gradient_norm):
            self.reason = f"gradient norm {gradient_norm} at step {step}"
        else:
            self._last.append(loss)
            if len(self._last) == _WINDOW:
                self._compare(step, sum(self._last) / _WINDOW)

    def _compare(self, step: int, mean: float) -> None:
        if self._first is None:
            self._first = mean
        self._lowest = min(self._lowest, mean)
        if mean > self._lowest + _RISE * self._first:
            self.reason = f"loss {mean:.3g} at step {step}, mean of {_WINDOW} steps, after {self._lowest:.3g}"

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"reason": self.reason, "last": list(self._last), "first": self._first, "lowest": self._lowest}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what ``state`` gave."""
        self.reason, self._first, self._lowest = state["reason"], state["first"], state["lowest"]
        self._last.extend(state["last"])
