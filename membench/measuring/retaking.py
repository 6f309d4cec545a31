"""Samples that others disturbed are kept apart and taken again, within a budget of seconds.

What is judged is a window: the samples taken between two readings of the watch. What stays disturbed when the budget
is spent counts as taken, but is used only where there would be fewer than ``floor_samples`` without it.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from membench.machine.disturbance import LIMIT, SPAN_S, Seen, Signal, Watch

if TYPE_CHECKING:
    from membench.measuring.time import Sampling

# A reading takes some 0.2 ms, and lets the threads fall asleep: it should be rare among samples of a millisecond.
WINDOW_S = 0.02
_READINGS = 20  # as long as so many readings, where they take longer: there may be a hundred threads to read of


Sample = TypeVar("Sample")  # whatever a sample is to the one who takes it
Part = TypeVar("Part")
StoppedBy = Literal["samples", "disturbance", "time"]


class Window(NamedTuple, Generic[Sample]):
    """Samples taken between two readings, and what was seen meanwhile.

    ``number`` counts the samples before it, and one more for each time that was passed: numbers in a row are samples
    in a row.
    """

    samples: list[Sample]
    seen: Seen
    number: int = 0

    @property
    def disturbed(self) -> bool:
        return self.seen.worst > LIMIT


class Taken(NamedTuple, Generic[Sample]):
    """What came of a sampling: the samples that count, in order, and the disturbed ones kept apart.

    ``follows``: for each that counts, whether the one before it was taken directly before. ``disturbance`` is what a
    record says.
    """

    kept: list[Sample]
    apart: list[Sample]
    follows: list[bool]
    stopped_by: StoppedBy
    disturbance: dict[str, Any]

    def each(self, part: Callable[[Sample], Part]) -> "Taken[Part]":
        """A part of every sample."""
        return Taken([*map(part, self.kept)], [*map(part, self.apart)], self.follows, self.stopped_by, self.disturbance)


class Retaking(Generic[Sample]):
    """The samples of one sampling. ``stopped_by`` says what ended it, once ``wanted`` is 0: enough samples, enough
    with those that stay disturbed, or the time.

    A budget of no seconds takes nothing again, but keeps disturbed samples apart all the same.

    Args:
        affordable: how many samples the time allows, where that is known from the outset.
        now: the clock by which it is decided; of ranks that measure together one for all. None: this process's.
    """

    def __init__(
        self,
        sampling: "Sampling",
        watch: Watch | None,
        affordable: int | None = None,
        *,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._now = now or time.perf_counter
        self._sampling, self._watch = sampling, watch
        self._most = sampling.min_samples if affordable is None else min(affordable, sampling.min_samples)
        self._budget_s = sampling.retake_seconds
        self._windows: list[Window[Sample]] = []
        self._next = 0  # the number of the next window
        self._stay = 0  # disturbed samples that are not taken again
        self._spent_s = 0.0
        self.stopped_by: StoppedBy = "samples"

    def take(self, take: Callable[[], Sample], call: Callable[[], object]) -> None:
        """All samples, one at a time in windows; ``call`` makes an untimed call, which passes the time between two."""
        begin, window_s = self._now(), WINDOW_S
        while wanted := self.wanted(self._now() - begin):
            window_begin, window = self._now(), [take()]
            while self._watch and len(window) < wanted and self._now() - window_begin < window_s:
                window.append(take())
            judged = self._now()
            pass_s = self.add(window, judged - window_begin)
            window_s = max(WINDOW_S, _READINGS * (self._now() - judged))
            if pass_s:
                while self._now() - judged < pass_s:
                    call()
                self.passed(self._now() - judged)

    def take_batches(self, take: Callable[[], list[Sample]]) -> None:
        """All samples, a batch a window; one that is disturbed is taken again as a whole."""
        begin = self._now()
        while self.wanted(self._now() - begin):
            batch_begin = self._now()
            self.add(take(), self._now() - batch_begin)

    def wanted(self, elapsed_s: float) -> int:
        """How many samples are to be taken next, ``elapsed_s`` seconds after the first was begun; 0: no more."""
        taken = sum(len(window.samples) for window in self._windows if not window.disturbed) + self._stay
        enough = taken >= self._most
        late = elapsed_s - self._spent_s >= self._sampling.max_seconds and taken >= self._sampling.floor_samples
        if not enough and not late:
            return self._most - taken
        by_count = enough and self._most == self._sampling.min_samples
        self.stopped_by = "disturbance" if self._stay else "samples" if by_count else "time"
        return 0

    def add(self, samples: list[Sample], lasted_s: float) -> float:
        """Judge the samples of a window that lasted so long.

        Returns:
            For how many seconds the step should be called, untimed, before the next window, so that neither what
            disturbed this one, nor the half second that ticks are looked at over, reaches into it.
        """
        seen = self._watch.seen() if self._watch else Seen({}, None)
        window = Window(samples, seen, self._next)
        self._windows.append(window)
        self._next += len(samples)
        if not window.disturbed:
            return 0.0
        if self._spent_s >= self._budget_s:
            self._stay += len(samples)
            return 0.0
        self._spent_s += lasted_s
        # a whole span: after less of it, the last reading before could still be what the next window's span begins with
        return max(0.0, min(SPAN_S, self._budget_s - self._spent_s))

    def passed(self, seconds: float) -> None:
        """So many seconds went by untimed; the next window begins now."""
        self._spent_s += seconds
        self._next += 1
        if self._watch is not None:
            self._watch.mark()

    def taken(self) -> Taken[Sample]:
        """All of it. Where too few samples are undisturbed, the least disturbed of the others fill up."""
        numbered = [(w.number + i, each, w) for w in self._windows for i, each in enumerate(w.samples)]
        # the least disturbed first, and not the fastest: which those are must not depend on the times
        disturbed = sorted((each for each in numbered if each[2].disturbed), key=lambda each: each[2].seen.worst)
        short = max(0, self._sampling.floor_samples - (len(numbered) - len(disturbed)))
        filling = {number for number, _, _ in disturbed[:short]}
        kept = [(number, each) for number, each, window in numbered if not window.disturbed or number in filling]
        numbers = [number for number, _ in kept]
        return Taken(
            kept=[each for _, each in kept],
            apart=[each for number, each, window in numbered if window.disturbed and number not in filling],
            follows=[number - 1 == before for number, before in zip(numbers, [-2, *numbers], strict=False)],
            stopped_by=self.stopped_by,
            disturbance=self._record([window.seen for _, _, window in disturbed[:short]], len(disturbed)),
        )

    def _record(self, kept: list[Seen], disturbed: int) -> dict[str, Any]:
        if self._watch is None:
            return {}
        return {
            **summary(self._windows, self._watch),
            "disturbed_samples": disturbed,
            "retaken_samples": disturbed - self._stay,
            "retake_seconds": self._spent_s,
            "kept_samples": len(kept),
            "kept_share": statistics.fmean(seen.worst for seen in kept) if kept else None,
            "kept_by": _causes(kept),
        }


def summary(windows: list[Window[Any]], watch: Watch) -> dict[str, Any]:
    """What was seen over all windows, as a record keeps it."""
    counted = [(window.seen.involuntary_switches, len(window.samples)) for window in windows]
    known = [(switches, samples) for switches, samples in counted if switches is not None]
    samples = sum(samples for _, samples in known)
    return {
        "limit": LIMIT,
        "shares": {name: _over(windows, name) for name in watch.signals},
        "involuntary_switches_per_sample": sum(switches for switches, _ in known) / samples if samples else None,
    }


def _over(windows: list[Window[Any]], name: Signal) -> dict[str, float] | None:
    """The largest share, and the mean over samples; None where it was never told."""
    known = [(share, len(w.samples)) for w in windows if (share := w.seen.shares[name]) is not None]
    if not known:
        return None
    mean = math.fsum(share * samples for share, samples in known) / sum(samples for _, samples in known)
    return {"largest": max(share for share, _ in known), "mean": mean}


def _causes(kept: list[Seen]) -> list[str]:
    """The signals that were over the limit, the most frequent first."""
    over = Counter(name for seen in kept for name, share in seen.shares.items() if share is not None and share > LIMIT)
    return [name for name, _ in over.most_common()]
