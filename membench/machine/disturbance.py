"""What others did to this process between two readings: which share of the time its processors were not its own.

How long a window may be judged by which signal:

* *waiting* comes in nanoseconds (``/proc/self/task/*/schedstat``), so a window of some milliseconds will do. It is
  the time that the thread which waited longest stood in a run queue, less what other threads of this process may have
  kept it from running: where ranks share a layer, each has threads that talk to the others, on the cores that compute.
* *other processes* is the time of our cores that was neither idle, nor stolen, nor ours. Idle and stolen time come in
  ticks of 10 ms. (Busy ticks would be worse still: a kernel samples them, while it adds idle time up exactly, and
  rounds it when it is read.) So a tick a core could be chance: it is taken off, which makes the share a lower bound,
  and one tick never makes a window disturbed. And the window is looked at together with what came before it, half a
  second in all, in which a tick is 2 %. A disturbance that has just ended may so still count for up to half a second.
* *hypervisor* is the stolen time alone, and has the same ticks.
* *throttled* is told by control groups in nanoseconds or microseconds, when a group is let go on.
* *GPU throttled* and *GPU others* are states, 0 or 1: read before and after a batch.

What is not told is None. What others do on cores that this process does not use is not seen: they share its memory's
bandwidth, and the last-level cache.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from membench.machine.cgroup import ROOT, throttle_counters, throttled_seconds
from membench.machine.core_times import TICK_S, CoreTimes, read_core_times
from membench.machine.gpu_sharing import GpuSharing, read_gpu_sharing
from membench.machine.run_queue import Scheduled, read_turns, waited_share

Signal = Literal["waiting", "other_processes", "hypervisor", "throttled", "gpu_throttled", "gpu_others"]
CPU_SIGNALS: tuple[Signal, ...] = ("waiting", "other_processes", "hypervisor", "throttled")
# A GPU waits for the thread that feeds it; who else uses the host's cores does not matter to it.
GPU_SIGNALS: tuple[Signal, ...] = ("waiting", "throttled", "gpu_throttled", "gpu_others")

# Above this share a window is disturbed. Less is what a quiet machine's own housekeeping takes, with the ticks that
# cannot be told from it; a median of samples that each lost less stays within what rounds differ by anyway.
LIMIT = 0.05
SPAN_S = 0.5  # what is told in ticks is looked at over so long


@dataclass(frozen=True, slots=True)
class Seen:
    """Shares by signal, 0 to 1, None where the machine does not tell, and how often a thread was sent off its core."""

    shares: dict[Signal, float | None]
    involuntary_switches: int | None

    @property
    def worst(self) -> float:
        """The largest share; 0 where nothing is told."""
        return max((share for share in self.shares.values() if share is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was counted up to one moment."""

    at_s: float
    own_s: float
    turns: dict[str, Scheduled] | None
    cores: CoreTimes | None
    throttled_s: tuple[float, ...]
    involuntary_switches: int | None
    gpu: GpuSharing | None


class Watch:
    """Watches what others do to this process. ``begin`` comes first, as long before the first window as can be."""

    def __init__(self, device: str, root: Path = ROOT) -> None:
        self.device, self._root = device, root
        self.signals = GPU_SIGNALS if device == "cuda" else CPU_SIGNALS
        self._counters = throttle_counters(root)
        self._threads: dict[str, frozenset[int]] = {}
        self._readings: list[Reading] = []

    def begin(self) -> None:
        """Forget what was."""
        self._threads, self._readings = {}, []
        self.mark()

    def mark(self) -> None:
        """A window begins now."""
        before, self._threads = self._cores, cores_of_threads()
        if self._cores != before:  # threads that compute have been started since
            self._readings = []
        self._take()

    @property
    def _cores(self) -> frozenset[int]:
        """Those that threads of this process may run on."""
        return frozenset[int]().union(*self._threads.values())

    def _take(self) -> None:
        now = self._read()
        # the last of those that are old enough is what a span may begin with
        old = [each for each in self._readings if now.at_s - each.at_s >= SPAN_S]
        self._readings = [*old[-1:], *self._readings[len(old) :], now]

    def seen(self) -> Seen:
        """What others did since the last mark; the next window begins."""
        window = self._readings[-1]
        self._take()
        now = self._readings[-1]
        span = next((each for each in reversed(self._readings) if now.at_s - each.at_s >= SPAN_S), self._readings[0])
        before, after = window.involuntary_switches, now.involuntary_switches
        shares = self._shares(window, span, now)
        return Seen(
            {name: shares[name] for name in self.signals},
            None if before is None or after is None else after - before,
        )

    def unseen(self) -> dict[str, str]:
        """Which signals this machine does not tell of, and why."""
        now = self._read()
        reasons = {
            "waiting": None if now.turns else "no /proc/self/schedstat: the kernel keeps no scheduler statistics",
            "other_processes": None if now.cores else "/proc/stat does not tell of each core",
            "hypervisor": None if now.cores else "/proc/stat does not tell of each core",
            "throttled": None if self._counters else "no control group of this process counts it (cpu.stat)",
            "gpu_throttled": None if now.gpu and now.gpu.reasons is not None else "NVML does not tell",
            "gpu_others": None if now.gpu and now.gpu.others is not None else "NVML does not tell",
        }
        return {name: why for name in self.signals if (why := reasons[name])}

    def _read(self) -> Reading:
        return Reading(
            at_s=time.perf_counter(),
            own_s=time.process_time(),
            turns=read_turns(self._root),
            cores=read_core_times(self._cores, self._root) if self._cores else None,
            throttled_s=tuple(throttled_seconds(counter) or 0.0 for counter in self._counters),
            involuntary_switches=_involuntary_switches(),
            gpu=read_gpu_sharing() if self.device == "cuda" else None,
        )

    def _shares(self, window: Reading, span: Reading, now: Reading) -> dict[Signal, float | None]:
        seconds = max(now.at_s - window.at_s, 1e-9)
        waited = None
        if window.turns and now.turns:
            waited = waited_share(window.turns, now.turns, seconds, self._threads)
        throttled = None
        if self._counters:
            most = max(after - before for before, after in zip(window.throttled_s, now.throttled_s, strict=True))
            throttled = _share(most, seconds * max(1, len(self._cores)))
        if waited is not None:  # a thread of a group that is throttled waits too, but for nobody
            waited = _share(waited - (throttled or 0.0), 1.0)
        others, stolen = self._of_the_cores(span, now)
        before, after = window.gpu, now.gpu
        return {
            "waiting": waited,
            "other_processes": others,
            "hypervisor": stolen,
            "throttled": throttled,
            "gpu_throttled": _either(before and before.reasons, after and after.reasons),
            "gpu_others": _either(before and before.others, after and after.others),
        }

    def _of_the_cores(self, then: Reading, now: Reading) -> tuple[float | None, float | None]:
        """The shares of other processes and of the hypervisor; None where ``/proc/stat`` stands still."""
        if then.cores is None or now.cores is None:
            return None, None
        all_s = (now.at_s - then.at_s) * len(self._cores)
        chance_s = TICK_S * len(self._cores)
        if now.cores.told_s - then.cores.told_s < all_s / 2 - chance_s:
            return None, None
        idle_s, stolen_s = now.cores.idle_s - then.cores.idle_s, now.cores.stolen_s - then.cores.stolen_s
        others_s = all_s - idle_s - stolen_s - (now.own_s - then.own_s)
        return _share(others_s - chance_s, all_s), _share(stolen_s - chance_s, all_s)


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _either(before: object, after: object) -> float | None:
    """1 where there was something at either end, None where neither end tells."""
    known = [bool(each) for each in (before, after) if each is not None]
    return float(any(known)) if known else None


def cores_of_threads() -> dict[str, frozenset[int]]:
    """The cores that each thread of this process may run on; OpenMP binds each of its own to one."""
    cores: dict[str, frozenset[int]] = {}
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            for thread in Path("/proc/self/task").iterdir():
                with suppress(OSError):  # it has just ended
                    cores[thread.name] = frozenset(os.sched_getaffinity(int(thread.name)))
    return cores


def _involuntary_switches() -> int | None:
    try:
        import resource
    except ImportError:  # no Unix
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
