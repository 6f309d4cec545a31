"""A process of its own: builds one layer, measures its cases, says what happened line by line.

Reads a job (JSON) from standard input and writes one JSON event a line to standard output:
``{"event": "progress" | "ceilings" | "built" | "case" | "done", …}``. Whatever else prints,
prints to standard error. The parent may kill it at any time; nothing is lost but its case.
"""

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from pydantic import BaseModel

from membench.case import Case
from membench.device import default_threads, usable_cores
from membench.errors import Unavailable
from membench.sections import Measure

_PR_SET_PDEATHSIG = 1
JobType = TypeVar("JobType", bound=BaseModel)


class Job(BaseModel):
    """What one process is asked to measure: cases that share one build."""

    device: str
    threads: int | None = None
    cases: list[Case]
    min_samples: int
    floor_samples: int
    max_seconds: float
    warmup_seconds: float
    implementations: list[str]

    @classmethod
    def of(cls, cases: list[Case], device: str, measure: Measure) -> Self:
        """The cases measured as a scenario says."""
        same = cls.model_fields.keys() & Measure.model_fields.keys()
        return cls(device=device, cases=cases, **measure.model_dump(include=same))


class Events:
    """Writes events to the parent; standard output now means standard error."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, event: str, **facts: Any) -> None:
        self._stream.write(json.dumps({"event": event, **facts}, allow_nan=False) + "\n")


def die_with_parent() -> None:
    """Asks the kernel (Linux) to end this process when the one that started it ends, however it does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_killed_first() -> None:
    """Be the process that the kernel ends when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def prepare_process(threads: int | None) -> int:
    """Pin threads to cores, before torch is imported, and be killed first. Returns the threads."""
    be_killed_first()
    cores = usable_cores()
    count = min(threads or default_threads(), len(cores))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cores[:count]))
    import torch

    torch.set_num_threads(count)
    return count


def run(job: Job, events: Events) -> None:
    """Measure every case of the job."""
    threads = prepare_process(job.threads)
    from membench.built import build_with_ceilings
    from membench.measure.time import Sampling
    from membench.measurement import CaseMeasurement

    def progress(doing: str) -> None:
        events.send("progress", doing=doing)

    built = build_with_ceilings(job.cases[0], job.device, progress)
    events.send(
        "built",
        ceilings=built.ceilings.as_json(),
        threads=threads,
        huge_pages=built.huge_pages,
        seconds=built.seconds,
    )
    measurement = CaseMeasurement(built.layer, built.clock, built.cache_bytes, progress)
    sampling = Sampling(job.min_samples, job.floor_samples, job.max_seconds, job.warmup_seconds)
    for case in job.cases:
        events.send("case_started", id=case.id)
        try:
            found = measurement.run(case, sampling, job.implementations)
            events.send("case", id=case.id, status="ok", reason=None, found=found)
        except Exception as error:  # whatever a layer from outside raises is its record's reason
            status, reason = classify(error)
            events.send("case", id=case.id, status=status, reason=reason, found=None)
            built.layer.zero_gradients()
            if "CUDA error" in (reason or ""):
                sys.exit(1)  # such an error stays with the process; the runner gives what is left a new one
    events.send("done")


def classify(error: BaseException) -> tuple[str, str]:
    """(status, reason): ``skipped`` where the device cannot, ``oom`` for memory, else ``error``; a reason is a line."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, Unavailable):
        return "skipped", text
    low_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    low_memory = low_memory or getattr(error, "errno", None) == errno.ENOMEM
    if low_memory or "can't allocate memory" in text or "out of memory" in text.lower():
        return "oom", text
    return "error", f"{type(error).__name__}: {text}" if not text.startswith("wrong answer") else text


def serve(job_type: type[JobType], run: Callable[[JobType, Events], None]) -> int:
    """Entry point of a process that does a job: read it from standard input, run it, say what failed."""
    return say_failure(lambda events: run(job_type.model_validate_json(sys.stdin.read()), events))


def say_failure(run: Callable[[Events], None]) -> int:
    """Runs a whole process; what is raised is an event of its own, and exit code 1."""
    die_with_parent()
    events = Events()
    try:
        run(events)
    except Exception as error:
        status, reason = classify(error)
        events.send("failed", status=status, reason=reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve(Job, run))
