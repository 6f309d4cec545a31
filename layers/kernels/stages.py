"""Which stage of a layer is running, told to whoever listens. Costs a function call where nobody does.

The names are those of ``StageCost.name`` in ``layers.spec``: what is timed can be held against what
is counted. A stage inside another interrupts it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class StageObserver(Protocol):
    """Who listens: ``stage`` is entered when a stage begins and left when it ends, in a backward pass too."""

    def stage(self, name: str) -> AbstractContextManager[None]: ...


_observer: StageObserver | None = None


def stage(name: str) -> AbstractContextManager[None]:
    """``with stage("bag"):`` around what a stage does. Not inside threads of one's own."""
    return nullcontext() if _observer is None else _observer.stage(name)


@contextmanager
def observed_by(observer: StageObserver) -> Iterator[None]:
    """Inside, ``observer`` hears of every stage of this process."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before
