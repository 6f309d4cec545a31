"""Counters of this process: read where the kernel gives them, and a reason where it does not."""

import errno
import mmap
import os
import struct
import sys
import threading
from functools import partial

import pytest

from membench.machine import instructions
from membench.machine.instructions import INSTRUCTIONS, Event, InstructionCounter, per_call, perf_event_open
from membench.measuring import diagnosis

# Software events exist where a processor's counters do not, as in most virtual machines.
TASK_CLOCK, PAGE_FAULTS = Event(1, 1), Event(1, 2)


def needs(event):
    with InstructionCounter(event) as counter:
        return pytest.mark.skipif(counter.reason is not None, reason=f"perf_event_open: {counter.reason}")


@needs(PAGE_FAULTS)
def test_what_a_call_does_is_counted():
    pages = 100

    def touch(i):
        del i
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as fresh:
            for page in range(pages):
                fresh[page * mmap.PAGESIZE] = 1

    found = per_call(touch, 4, PAGE_FAULTS)
    assert found is not None
    assert 0.9 * pages <= found <= 2 * pages


@needs(TASK_CLOCK)
def test_threads_that_run_already_count_too():
    begin, done, end = threading.Event(), threading.Event(), threading.Event()

    def work():
        begin.wait()
        sum(range(10**7))
        done.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with InstructionCounter(TASK_CLOCK) as counter:
            assert len(counter._descriptors) >= 2
            before = counter.read()
            begin.set()
            done.wait()
            assert counter.read() - before > 10**7  # nanoseconds; waiting alone takes none
    finally:
        begin.set()
        end.set()
        thread.join()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOENT, "offers no counter"), (errno.EACCES, "perf_event_paranoid"), (errno.EMFILE, "")]
)
def test_a_refused_call_is_a_reason(number, said):
    def refused(*asked):
        raise OSError(number, "refused")

    counter = InstructionCounter(open_event=refused)
    assert said in counter.reason
    assert counter.read() is None
    counter.close()


def test_a_counter_that_is_refused_to_one_thread_counts_none(tmp_path, monkeypatch):
    """Part of a process would be taken for the whole."""
    for thread in (1, 2):
        (tmp_path / str(thread)).mkdir()
    monkeypatch.setattr(instructions, "_THREADS", tmp_path)
    opened = []

    def only_one(attribute, thread, cpu, group, flags):
        if opened:
            raise OSError(errno.EACCES, "refused")
        opened.append(os.open(os.devnull, os.O_RDONLY))
        return opened[0]

    counter = InstructionCounter(open_event=only_one)
    assert counter.reason
    assert counter.read() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


@pytest.mark.parametrize(("counted_ns", "known"), [(1000, True), (999, False)])
def test_a_counter_shared_with_others_is_unknown(counted_ns, known, tmp_path, monkeypatch):
    """The kernel would have it scaled up from a part of the time: that is an estimate."""
    (tmp_path / "task" / "1").mkdir(parents=True)
    monkeypatch.setattr(instructions, "_THREADS", tmp_path / "task")
    file = tmp_path / "counter"
    file.write_bytes(struct.pack("=QQQ", 42, 1000, counted_ns))
    with InstructionCounter(open_event=lambda *asked: os.open(file, os.O_RDONLY)) as counter:
        assert counter.read() == (42 if known else None)


def test_what_the_kernel_is_asked_for(tmp_path, monkeypatch):
    """Instructions, of user space alone, of threads that start later too."""
    (tmp_path / "7").mkdir()
    monkeypatch.setattr(instructions, "_THREADS", tmp_path)
    asked = []

    def opened(attribute, thread, cpu, group, flags):
        asked.append((attribute, thread, cpu, group))
        return os.open(os.devnull, os.O_RDONLY)

    InstructionCounter(open_event=opened).close()
    [(attribute, thread, cpu, group)] = asked
    kind, size, config = struct.unpack_from("=IIQ", attribute)
    [flags] = struct.unpack_from("=Q", attribute, 40)
    assert (kind, config) == INSTRUCTIONS
    assert size == len(attribute) == 64
    assert (thread, cpu, group) == (7, -1, -1)
    assert flags & 0b1100010 == 0b1100010  # inherit, exclude_kernel, exclude_hv
    assert not flags & 0b10001  # neither disabled nor exclude_user


def test_doctor_says_why_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(diagnosis, "InstructionCounter", partial(InstructionCounter, open_event=refuse))
    environment = {
        "device": {"type": "cpu", "cache_bytes": 1},
        "conditions": {"fallback": None},
        "host": {"huge_pages": "always"},
    }
    assert "perf_event_paranoid" in diagnosis._unknown(environment)["instructions_per_call"]


def refuse(*asked):
    raise OSError(errno.EACCES, "refused")


def test_elsewhere_it_is_unknown(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="darwin"):
        perf_event_open(b"", 0, -1, -1, 0)
    assert per_call(lambda i: None, 3) is None
