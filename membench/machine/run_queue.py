"""How long the threads of this process waited for a processor, in nanoseconds. Linux with scheduler statistics."""

from collections.abc import Collection, Mapping
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


def waited_share(
    before: dict[str, Scheduled],
    after: dict[str, Scheduled],
    seconds: float,
    cores: Mapping[str, Collection[int]] | None = None,
) -> float:
    """The share of the time that the thread which waited most was kept from running by others, beyond being woken.

    The most and no mean: a step goes on when its slowest thread has finished.

    Args:
        cores: that each thread may run on. What this process's own other threads may have kept a thread from running
            (a rank's computation waits for the thread that talks to other ranks) is taken off, which makes the share
            a lower bound. None: nothing is.
    """
    never = Scheduled(0.0, 0.0, 0)
    ran, waits = {}, {}
    for name, now in after.items():
        then = before.get(name, never)
        ran[name] = now.ran_s - then.ran_s
        waits[name] = now.waited_s - then.waited_s - _WAKING_S * (now.times - then.times)
    kept = {name: _full_of_own(name, ran, cores or {}) for name in waits}
    return max(0.0, *(waits[name] - kept[name] for name in waits)) / seconds if waits else 0.0


def _full_of_own(name: str, ran: Mapping[str, float], cores: Mapping[str, Collection[int]]) -> float:
    """For how many seconds at most all cores of a thread had other threads of its process on them.

    Of n cores that is no longer than all but the n - 1 that ran most have run together: at each such moment one of
    these ran.
    """
    own = {*cores.get(name, ())}
    beside = (seconds for other, seconds in ran.items() if other != name and own.intersection(cores.get(other, ())))
    return sum(sorted(beside, reverse=True)[len(own) - 1 :]) if own else 0.0
