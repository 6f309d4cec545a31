"""Where the seconds of a measurement went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StopWatch:
    """Seconds spent by purpose."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[purpose] = self.seconds.get(purpose, 0.0) + time.perf_counter() - begin
