"""For tests of time: a clock that only sleeping moves, processor time, and a check that may wait for a quiet moment."""

import resource
import subprocess
import sys
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


# Processor time of a loop in a process of its own, on the machine for which limits are set.
_LOOP = "import time; sum(i * i for i in range(4_000_000)); print(time.process_time())"
_LOOP_SECONDS = 0.25


@contextmanager
def processes_take_less_than(seconds: float) -> Iterator[None]:
    """Fails if the processes that were started and waited for inside took more processor time.

    It is what they would take on a quiet machine, near enough: others who use the cores do not count, and where a plain
    loop takes longer now than it should, before or after, so may they. A core shared with another guest is no faster
    than half of one.
    """
    slowness = _slowness()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken_s = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert taken_s < seconds * max(slowness, _slowness())


def _slowness() -> float:
    done = subprocess.run([sys.executable, "-c", _LOOP], capture_output=True, text=True, check=True)
    return max(1.0, float(done.stdout) / _LOOP_SECONDS)
