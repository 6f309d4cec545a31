"""For tests of time: a clock that only sleeping moves, processor time, and a check that may wait for a quiet moment."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class VirtualTime:
    """Stands in for the module ``time``: nothing takes time but ``sleep``, so times are exact on a busy machine too."""

    def __init__(self) -> None:
        self._now_s = self._off_core_s = 0.0

    def perf_counter(self) -> float:
        return self._now_s

    def thread_time(self) -> float:
        return self._now_s - self._off_core_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds

    def off_core(self, seconds: float) -> None:
        """Others have the core."""
        self._now_s += seconds
        self._off_core_s += seconds


def once_in(tries: int, check: Callable[[], None]) -> None:
    """Runs a check of real time until it holds; the last failure stands. Others may be using the cores."""
    for left in reversed(range(tries)):
        try:
            check()
            return
        except AssertionError:
            if not left:
                raise


@contextmanager
def processes_take_less_than(seconds: float) -> Iterator[None]:
    """Fails if the processes that were started and waited for inside took more processor time.

    It is what they would take on a quiet machine, near enough: others who use the cores do not count.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken_s = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert taken_s < seconds
