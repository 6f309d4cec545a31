"""For tests of time: a clock that only sleeping moves, and a check that may wait for a quiet moment."""

from collections.abc import Callable


class VirtualTime:
    """Stands in for the module ``time``: nothing takes time but ``sleep``, so times are exact on a busy machine too."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def perf_counter(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds


def once_in(tries: int, check: Callable[[], None]) -> None:
    """Runs a check of real time until it holds; the last failure stands. Others may be using the cores."""
    for left in reversed(range(tries)):
        try:
            check()
            return
        except AssertionError:
            if not left:
                raise
