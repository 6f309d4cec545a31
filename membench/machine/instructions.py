"""Instructions that this process executes in user space, where the machine counts them (Linux, ``perf_event_open``).

They are nearly free of noise: neighbours, clocks and caches change how long an instruction takes, not how many there
are. Many virtual machines offer no counter. Structure and numbers are those of perf_event_open(2) and
linux/perf_event.h.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

SYSCALLS = {"x86_64": 298, "aarch64": 241}
_THREADS = Path("/proc/self/task")
_ATTRIBUTE_BYTES = 64  # the structure's first version
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
_TIMES = 1 | 2  # read beside the count: nanoseconds it was wanted, and really counted
_CLOSE_ON_EXEC = 1 << 3


class Event(NamedTuple):
    """What is counted, as the kernel numbers it."""

    type: int
    config: int


INSTRUCTIONS = Event(0, 1)

_REASONS = {
    errno.ENOENT: "this processor, or what it is a part of, offers no counter",
    errno.EACCES: "not permitted: see /proc/sys/kernel/perf_event_paranoid",
    errno.EPERM: "not permitted: see /proc/sys/kernel/perf_event_paranoid",
}

# (attribute, thread, cpu, group, flags) -> file descriptor; raises OSError
OpenEvent = Callable[[bytes, int, int, int, int], int]


def perf_event_open(attribute: bytes, thread: int, cpu: int, group: int, flags: int) -> int:
    """The system call; returns a file descriptor.

    Raises:
        OSError: the kernel refuses it, or this is no system or processor whose call is known.
    """
    number = SYSCALLS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None:
        raise OSError(0, f"not known for {sys.platform} on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attribute, len(attribute))
    call = ctypes.CDLL(None, use_errno=True).syscall
    found = call(ctypes.c_long(number), buffer, *map(ctypes.c_long, (thread, cpu, group, flags)))
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return found


class InstructionCounter:
    """Counts over all threads of this process, and those they start. ``reason``: None, or why nothing is counted."""

    def __init__(self, event: Event = INSTRUCTIONS, open_event: OpenEvent = perf_event_open) -> None:
        self._descriptors: list[int] = []
        self.reason: str | None = None
        flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR
        head = struct.pack("=IIQQQQQ", event.type, _ATTRIBUTE_BYTES, event.config, 0, 0, _TIMES, flags)
        attribute = head.ljust(_ATTRIBUTE_BYTES, b"\0")
        try:
            for thread in _threads():
                self._descriptors.append(open_event(attribute, thread, -1, -1, _CLOSE_ON_EXEC))
        except OSError as error:
            self.close()
            self.reason = _REASONS.get(error.errno or 0, f"perf_event_open: {error.strerror}")

    def read(self) -> int | None:
        """Events so far; None where not all were counted, because a counter was refused or shared with others."""
        if not self._descriptors:
            return None
        total = 0
        for descriptor in self._descriptors:
            value, wanted_ns, counted_ns = struct.unpack("=QQQ", os.read(descriptor, 24))
            if counted_ns < wanted_ns:
                return None
            total += value
        return total

    def close(self) -> None:
        """Give the counters back."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def _threads() -> Iterator[int]:
    """Threads that run now: a counter is inherited only by those that start after it."""
    if not _THREADS.is_dir():
        yield 0
        return
    yield from sorted(int(each.name) for each in _THREADS.iterdir())


def per_call(step: Callable[[int], object], calls: int, event: Event = INSTRUCTIONS) -> float | None:
    """Instructions of one of so many calls; None where this machine counts none."""
    with InstructionCounter(event) as counter:
        before = counter.read()
        if before is None:
            return None
        for i in range(calls):
            step(i)
        after = counter.read()
    return None if after is None else (after - before) / calls
