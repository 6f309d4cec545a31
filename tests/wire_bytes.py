"""What a process sends over torch.distributed, in bytes: counted as the instrument counts it."""

from collections import Counter
from contextlib import contextmanager

from membench.measuring.wire import Wire


class WireBytes:
    """``sent`` by the stage that sends it, or by the collective where torch's libraries do."""

    def __init__(self):
        self._wire = Wire()

    @property
    def sent(self):
        found = Counter()
        for call in self._wire.calls:
            found[call.name] += call.sent_bytes
        return found

    @contextmanager
    def counting(self):
        with self._wire.watched():
            yield self
