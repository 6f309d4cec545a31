"""What others did to this process: told by a /proc that a test makes, and once by a busy process that is there."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from timing import once_in

from membench.machine import disturbance, gpu_sharing
from membench.machine.disturbance import LIMIT, Watch

GROUPS = "1:cpu:/box\n"
V1 = "30 23 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"


class Machine:
    """Two cores of our own and one of others, whose time goes by in ``spend``; what it tells lies under ``root``."""

    def __init__(self, root):
        self.root, self.now_s, self.own_s = root, 100.0, 7.0
        self.idle_s, self.stolen_s = [50.0, 50.0, 50.0], [1.0, 1.0, 1.0]
        self.turns = {"11": [1.0, 0.5, 100], "12": [1.0, 0.5, 100]}
        (root / "proc/self").mkdir(parents=True)
        self.write()

    def perf_counter(self):
        return self.now_s

    def process_time(self):
        return self.own_s

    def spend(self, seconds, *, own=2.0, idle=0.0, stolen=0.0, waited=(0.0, 0.0), turns=0):
        """So many seconds, in which the two cores spent so many seconds each second on what is named."""
        self.now_s += seconds
        self.own_s += own * seconds
        for core in range(2):
            self.idle_s[core] += idle * seconds / 2
            self.stolen_s[core] += stolen * seconds / 2
        for turn, share in zip(self.turns.values(), waited, strict=True):
            turn[0] += seconds * (1 - share)
            turn[1] += seconds * share
            turn[2] += turns
        self.write()

    def write(self):
        lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
        for core in range(3):
            busy = self.now_s - self.idle_s[core] - self.stolen_s[core]
            fields = [busy, 0, 0, self.idle_s[core], 0, 0, 0, self.stolen_s[core], 0, 0]
            lines.append(f"cpu{core} " + " ".join(str(int(100 * each)) for each in fields))
        (self.root / "proc/stat").write_text("\n".join([*lines, "intr 5 0 0", "ctxt 9"]) + "\n")
        for name, (ran, waited, times) in self.turns.items():
            folder = self.root / "proc/self/task" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "schedstat").write_text(f"{ran * 1e9:.0f} {waited * 1e9:.0f} {times}\n")

    def throttle(self, seconds):
        (self.root / "proc/self/cgroup").write_text(GROUPS)
        (self.root / "proc/self/mountinfo").write_text(V1)
        group = self.root / "sys/fs/cgroup/cpu/box"
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.stat").write_text(f"nr_periods 9\nnr_throttled 3\nthrottled_time {seconds * 1e9:.0f}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    made = Machine(tmp_path)
    monkeypatch.setattr(disturbance, "time", made)
    monkeypatch.setattr(disturbance, "cores_of_threads", lambda: {"11": frozenset({0}), "12": frozenset({1})})
    return made


def watching(machine):
    watch = Watch("cpu", machine.root)
    watch.begin()
    watch.mark()
    return watch


def test_nobody_else(machine):
    watch = watching(machine)
    machine.spend(1.0)
    seen = watch.seen()
    assert seen.shares == {"waiting": 0.0, "other_processes": 0.0, "hypervisor": 0.0, "throttled": None}
    assert seen.worst == 0.0


def test_idle_cores_are_nobody_elses(machine):
    watch = watching(machine)
    machine.spend(1.0, own=0.5, idle=1.5)
    assert watch.seen().worst == 0.0


def test_the_thread_that_waited_most_counts_also_in_a_short_window(machine):
    watch = watching(machine)
    machine.spend(0.02, own=1.6, waited=(0.0, 0.4))
    assert watch.seen().shares["waiting"] == pytest.approx(0.4)
    machine.spend(0.02)
    assert watch.seen().shares["waiting"] == 0.0  # a window of its own


@pytest.mark.parametrize(
    ("cores", "waits"),
    [
        (({0}, {0}), 0.0),  # a rank's computation, and the thread that talks to the others: each waits for the other
        (({0}, {1}), 0.4),
        (({0, 1}, {0, 1}), 0.4),  # there was room for both
        (({0, 1}, {0}), 0.4),  # the second can have waited for the first, and the first not for the second
    ],
)
def test_threads_of_this_process_are_no_strangers_to_each_other(machine, monkeypatch, cores, waits):
    threads = dict(zip(machine.turns, map(frozenset, cores), strict=True))
    monkeypatch.setattr(disturbance, "cores_of_threads", lambda: threads)
    watch = watching(machine)
    machine.spend(0.02, own=1.2, waited=(0.4, 0.4))
    assert watch.seen().shares["waiting"] == pytest.approx(waits)


def test_who_waits_for_strangers_too_waits_for_so_long_as_own_threads_did_not_run(machine, monkeypatch):
    monkeypatch.setattr(disturbance, "cores_of_threads", lambda: dict.fromkeys(machine.turns, frozenset({0})))
    watch = watching(machine)
    machine.spend(0.02, own=0.7, waited=(0.5, 0.8))  # ran 0.5 and 0.2: strangers had 0.3 of the one core
    assert watch.seen().shares["waiting"] == pytest.approx(0.3)


def test_being_woken_is_not_waiting(machine):
    watch = watching(machine)
    machine.spend(0.02, waited=(0.1, 0.1), turns=100)  # two milliseconds, 20 µs a time
    assert watch.seen().shares["waiting"] == 0.0


def test_other_processes_and_the_hypervisor_are_told_apart(machine):
    watch = watching(machine)
    machine.spend(10.0, own=1.0, idle=0.2, stolen=0.3)  # others: 0.5 of 2 cores
    shares = watch.seen().shares
    tick = 0.01 / 10  # a core, which is taken off
    assert shares["other_processes"] == pytest.approx(0.25 - tick, abs=1e-9)
    assert shares["hypervisor"] == pytest.approx(0.15 - tick, abs=1e-9)


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.1, 0.5])
def test_a_tick_a_core_never_disturbs(machine, seconds):
    watch = watching(machine)
    machine.spend(seconds)
    for core in range(2):  # the kernel has rounded so
        machine.idle_s[core] -= 0.01
        machine.stolen_s[core] += 0.01
    machine.write()
    assert watch.seen().worst == pytest.approx(0.0, abs=1e-9)


def test_ticks_are_looked_at_over_half_a_second(machine):
    watch = watching(machine)
    for _ in range(25):
        machine.spend(0.02)
        assert watch.seen().shares["other_processes"] == 0.0
    machine.spend(0.02, own=0.0)  # all of two cores for two hundredths
    assert watch.seen().shares["other_processes"] == pytest.approx((0.04 - 0.02) / (2 * 0.5), abs=2e-3)
    for _ in range(25):
        machine.spend(0.02, own=0.0)
        shares = watch.seen().shares
    assert shares["other_processes"] == pytest.approx(1.0 - 0.02, abs=2e-3)
    for _ in range(26):
        machine.spend(0.02)
        shares = watch.seen().shares
    assert shares["other_processes"] == 0.0  # and forgotten half a second later


def test_a_long_window_is_judged_alone(machine):
    watch = watching(machine)
    machine.spend(3.0, own=0.0)
    assert watch.seen().shares["other_processes"] > 0.9
    machine.spend(0.6)
    assert watch.seen().shares["other_processes"] == 0.0


def test_threads_that_start_later_bring_their_cores(machine, monkeypatch):
    """OpenMP binds the first thread to one core, and the others when they start: in the warm-up at the latest."""
    monkeypatch.setattr(disturbance, "cores_of_threads", lambda: {"11": frozenset({0})})
    watch = Watch("cpu", machine.root)
    watch.begin()
    machine.spend(1.0)
    monkeypatch.setattr(disturbance, "cores_of_threads", lambda: {"11": frozenset({0}), "12": frozenset({1})})
    watch.mark()
    machine.spend(1.0, own=1.0)
    assert watch.seen().shares["other_processes"] == pytest.approx(0.5 - 0.01)


def test_a_throttled_thread_waits_for_nobody_else(machine):
    machine.throttle(4.0)
    watch = watching(machine)
    machine.spend(1.0, own=1.0, idle=1.0, waited=(0.5, 0.5))
    machine.throttle(5.0)  # half a second on each of two processors
    shares = watch.seen().shares
    assert shares["throttled"] == pytest.approx(0.5)
    assert shares["waiting"] == pytest.approx(0.0)


def test_a_proc_that_stands_still_tells_nothing(machine):
    watch = watching(machine)
    machine.now_s += 1.0
    machine.own_s += 0.5
    shares = watch.seen().shares
    assert (shares["other_processes"], shares["hypervisor"]) == (None, None)


def test_what_is_not_told_is_unknown_and_says_why(tmp_path, machine):
    bare = tmp_path / "bare"
    bare.mkdir()
    watch = Watch("cpu", bare)
    watch.begin()
    watch.mark()
    machine.spend(1.0, own=0.0)
    seen = watch.seen()
    assert set(seen.shares.values()) == {None}
    assert seen.worst == 0.0
    assert set(watch.unseen()) == {"waiting", "other_processes", "hypervisor", "throttled"}
    assert "/proc/self/schedstat" in watch.unseen()["waiting"]
    assert set(Watch("cpu", machine.root).unseen()) == {"other_processes", "hypervisor", "throttled"}  # not begun


def test_a_kernel_that_tells_nothing_of_steal_is_not_believed(machine):
    watch = watching(machine)
    (machine.root / "proc/stat").write_text("cpu0 1 2 3 4 5 6 7\ncpu1 1 2 3 4 5 6 7\n")
    machine.now_s += 1
    assert watch.seen().shares["hypervisor"] is None


# A GPU.


class Nvml:
    NVMLError = RuntimeError

    def __init__(self, reasons=0, processes=1):
        self.reasons, self.processes = reasons, processes

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):
        if self.reasons is None:
            raise self.NVMLError
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return [SimpleNamespace(pid=n) for n in range(self.processes)]


@pytest.fixture
def gpu(monkeypatch):
    from membench.machine import nvml

    fake = Nvml()
    monkeypatch.setattr(nvml, "pynvml", fake)
    monkeypatch.setattr(nvml, "handle", lambda: "gpu")
    return fake


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x01 | 0x02 | 0x04, ()),  # idle, set by an administrator, at the power limit
        (0x08, ("hardware slowdown",)),
        (0x20 | 0x40, ("software thermal slowdown", "hardware thermal slowdown")),
        (0x80, ("hardware power brake",)),
        (None, None),
    ],
)
def test_which_throttling_does_harm(gpu, bits, reasons):
    gpu.reasons = bits
    assert gpu_sharing.read_gpu_sharing().reasons == reasons


def test_a_gpu_that_others_use_or_that_is_hot(gpu, machine):
    watch = Watch("cuda", machine.root)
    watch.begin()
    watch.mark()
    machine.spend(1.0, own=0.0)  # a host that others use does not matter
    assert watch.seen().worst == 0.0
    gpu.processes = 2
    machine.spend(1.0)
    assert watch.seen().shares == {"waiting": 0.0, "throttled": None, "gpu_throttled": 0.0, "gpu_others": 1.0}
    gpu.processes, gpu.reasons = 1, 0x40
    watch.mark()
    assert watch.seen().shares["gpu_throttled"] == 1.0
    gpu.reasons = None
    watch.mark()
    assert watch.seen().shares["gpu_throttled"] is None
    assert watch.unseen() == {"throttled": watch.unseen()["throttled"], "gpu_throttled": "NVML does not tell"}


def test_no_nvml_tells_nothing(gpu, monkeypatch):
    from membench.machine import nvml

    monkeypatch.setattr(nvml, "handle", lambda: None)
    assert gpu_sharing.read_gpu_sharing() == (None, None)


# This machine.


def test_a_busy_process_on_our_core_is_seen():
    """Pinned to one core with us, it gets about half of it: far more than the limit, whoever else is there."""
    watch = Watch("cpu")
    watch.begin()
    if {"waiting", "other_processes"} & watch.unseen().keys():
        pytest.skip("this kernel tells nothing")
    script = f"""
import os, subprocess, sys, time
os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})
from membench.machine.disturbance import Watch
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    time.sleep(0.3)
    watch = Watch("cpu")
    watch.begin(), watch.mark()
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.6:
        pass
    shares = watch.seen().shares
finally:
    busy.kill()
    busy.wait()
print(shares["waiting"], shares["other_processes"])
"""

    def check():
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        assert [float(word) > 4 * LIMIT for word in out.split()] == [True, True], out

    once_in(3, check)
