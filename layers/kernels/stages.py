"""Tells an observer which stage of a layer is running. Without an observer this costs one function call.

The names are those of ``StageCost.name`` in ``layers.spec``, so that times can be compared with counts. A stage
inside another one interrupts it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class StageObserver(Protocol):
    """``stage`` is entered when a stage begins and left when it ends, also in a backward pass."""

    def stage(self, name: str) -> AbstractContextManager[None]: ...


_observer: StageObserver | None = None


def stage(name: str) -> AbstractContextManager[None]:
    """``with stage("bag"):`` around the work of a stage. Do not use it in threads that you start yourself."""
    return nullcontext() if _observer is None else _observer.stage(name)


def parts_of(stages: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last part for each call of a kernel of these stages: one call for all, or, observed, one for each."""
    if _observer is None:
        yield 0, len(stages) - 1
        return
    for number, name in enumerate(stages):
        with _observer.stage(name):
            yield number, number


def is_observed() -> bool:
    """Whether an observer is told of stages."""
    return _observer is not None


@contextmanager
def observed_by(observer: StageObserver) -> Iterator[None]:
    """Inside, ``observer`` is told of every stage of this process."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before
