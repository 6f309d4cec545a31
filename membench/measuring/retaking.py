"""Samples that others disturbed are kept apart and taken again, within a budget of seconds.

What is judged is a window: the samples taken between two readings of the watch. What stays disturbed when the budget
is spent counts as taken, but is used only where there would be fewer than ``floor_samples`` without it.
"""

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from membench.machine.disturbance import LIMIT, SPAN_S, Seen, Signal, Watch

if TYPE_CHECKING:
    from membench.measuring.time import Sampling

# A reading takes some 0.2 ms, and lets the threads fall asleep: it should be rare among samples of a millisecond.
WINDOW_S = 0.02


class Window(NamedTuple):
    """Samples taken between two readings, and what was seen meanwhile."""

    seconds: list[float]  # of each sample, a call
    seen: Seen


class Retaking:
    """The samples of one sampling. ``stopped_by`` says what ended it, once ``wanted`` is 0.

    A budget of no seconds takes nothing again, but keeps disturbed samples apart all the same.
    """

    def __init__(self, sampling: "Sampling", watch: Watch | None) -> None:
        self._sampling, self._watch = sampling, watch
        self._budget_s = sampling.retake_seconds
        self._clean: list[Window] = []
        self._disturbed: list[Window] = []
        self._stay = 0  # disturbed samples that are not taken again
        self._spent_s = 0.0
        self.stopped_by: Literal["samples", "time"] = "samples"

    def wanted(self, elapsed_s: float) -> int:
        """How many samples are to be taken next, ``elapsed_s`` seconds after the first was begun; 0: no more."""
        taken = sum(len(window.seconds) for window in self._clean) + self._stay
        if taken >= self._sampling.min_samples:
            return 0
        if elapsed_s - self._spent_s >= self._sampling.max_seconds and taken >= self._sampling.floor_samples:
            self.stopped_by = "time"
            return 0
        return self._sampling.min_samples - taken

    def add(self, seconds: list[float], lasted_s: float) -> float:
        """Judge the samples of a window that lasted so long.

        Returns:
            For how many seconds the step should be called, untimed, before the next window, so that neither what
            disturbed this one, nor the half second that ticks are looked at over, reaches into it.
        """
        if self._watch is None:
            self._clean.append(Window(seconds, Seen({}, None)))
            return 0.0
        window = Window(seconds, self._watch.seen())
        if window.seen.worst <= LIMIT:
            self._clean.append(window)
            return 0.0
        self._disturbed.append(window)
        if self._spent_s >= self._budget_s:
            self._stay += len(seconds)
            return 0.0
        self._spent_s += lasted_s
        return max(0.0, min(SPAN_S - lasted_s, self._budget_s - self._spent_s))

    def passed(self, seconds: float) -> None:
        """So many seconds went by untimed; the next window begins now."""
        self._spent_s += seconds
        if self._watch is not None:
            self._watch.mark()

    def samples(self) -> tuple[list[float], list[float], dict[str, Any]]:
        """(seconds a call of the samples that count, of the disturbed ones kept apart, what a record says of it)."""
        clean = [each for window in self._clean for each in window.seconds]
        # the least disturbed first, and not the fastest: which those are must not depend on the times
        ordered = sorted(self._disturbed, key=lambda window: window.seen.worst)
        disturbed = [(each, window.seen) for window in ordered for each in window.seconds]
        short = max(0, self._sampling.floor_samples - len(clean))
        kept, apart = disturbed[:short], [each for each, _ in disturbed[short:]]
        return [*clean, *(each for each, _ in kept)], apart, self._record([seen for _, seen in kept])

    def _record(self, kept: list[Seen]) -> dict[str, Any]:
        if self._watch is None:
            return {}
        windows = [*self._clean, *self._disturbed]
        disturbed = sum(len(window.seconds) for window in self._disturbed)
        return {
            **summary(windows, self._watch),
            "disturbed_samples": disturbed,
            "retaken_samples": disturbed - self._stay,
            "retake_seconds": self._spent_s,
            "kept_samples": len(kept),
            "kept_share": statistics.fmean(seen.worst for seen in kept) if kept else None,
            "kept_by": _causes(kept),
        }


def summary(windows: list[Window], watch: Watch) -> dict[str, Any]:
    """What was seen over all windows, as a record keeps it."""
    counted = [(window.seen.involuntary_switches, len(window.seconds)) for window in windows]
    known = [(switches, samples) for switches, samples in counted if switches is not None]
    samples = sum(samples for _, samples in known)
    return {
        "limit": LIMIT,
        "shares": {name: _over(windows, name) for name in watch.signals},
        "involuntary_switches_per_sample": sum(switches for switches, _ in known) / samples if samples else None,
    }


def _over(windows: list[Window], name: Signal) -> dict[str, float] | None:
    """The largest share, and the mean over samples; None where it was never told."""
    known = [(share, len(w.seconds)) for w in windows if (share := w.seen.shares[name]) is not None]
    if not known:
        return None
    mean = math.fsum(share * samples for share, samples in known) / sum(samples for _, samples in known)
    return {"largest": max(share for share, _ in known), "mean": mean}


def _causes(kept: list[Seen]) -> list[str]:
    """The signals that were over the limit, the most frequent first."""
    over = Counter(name for seen in kept for name, share in seen.shares.items() if share is not None and share > LIMIT)
    return [name for name, _ in over.most_common()]
