"""How long the threads of this process waited for a processor, in nanoseconds. Linux with scheduler statistics."""

from pathlib import Path
from typing import NamedTuple

from membench.machine.cgroup import ROOT

_WAKING_S = 50e-6  # what a thread waits in any case when it is woken, also on an idle processor


class Scheduled(NamedTuple):
    """What a thread has had so far: seconds it ran, seconds it waited for a processor, and how often it got one."""

    ran_s: float
    waited_s: float
    times: int


def read_turns(root: Path = ROOT) -> dict[str, Scheduled] | None:
    """By thread; None where the kernel does not tell."""
    found = {}
    for thread in (root / "proc/self/task").glob("*"):
        try:
            ran, waited, times = (thread / "schedstat").read_bytes().split()
        except (OSError, ValueError):  # a thread that has just ended, or a kernel without these statistics
            continue
        found[thread.name] = Scheduled(int(ran) / 1e9, int(waited) / 1e9, int(times))
    return found or None


def waited_share(before: dict[str, Scheduled], after: dict[str, Scheduled], seconds: float) -> float:
    """The share of the time that the thread which waited most was kept from running, beyond being woken.

    The most and no mean: a step goes on when its slowest thread has finished.
    """
    never = Scheduled(0.0, 0.0, 0)
    waits = []
    for name, now in after.items():
        then = before.get(name, never)
        waits.append(now.waited_s - then.waited_s - _WAKING_S * (now.times - then.times))
    return max(0.0, *waits) / seconds if waits else 0.0
