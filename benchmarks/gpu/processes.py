"""A command in a time box: it ends in time whatever it does, and nothing that it started outlives it."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_GRACE_S = 6.0  # from SIGTERM to SIGKILL: a run of membench writes what it has
_MARK = "MEMBENCH_GPU_PART"  # in the environment of a part, and so of all that it starts
_PR_SET_PDEATHSIG = 1


def boxed(
    command: list[str],
    seconds: float,
    log: BinaryIO,
    environment: Mapping[str, str],
    folder: Path,
    every: Callable[[], object],
    *,
    every_s: float = 5.0,
) -> int | None:
    """Runs a command for at most ``seconds``, its ending included; its exit code, None if it was stopped.

    Args:
        log: what it prints goes here.
        folder: where it runs.
        every: called each ``every_s`` while it runs.

    Raises:
        OSError: it could not be started.
    """
    end = time.monotonic() + seconds
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    grace = min(_GRACE_S, seconds / 4)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**environment, _MARK: mark},
        cwd=folder,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        while (left := end - grace - time.monotonic()) > 0:
            try:
                return process.wait(min(every_s, left))
            except subprocess.TimeoutExpired:
                every()
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        return None
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        end_marked(mark)


def end_marked(mark: str) -> None:
    """Kills every process that has this mark in its environment, also those with a session of their own."""
    for _ in range(20):  # one may be starting another
        marked = [pid for pid in _processes() if pid != os.getpid() and _has(pid, mark)]
        for pid in marked:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not marked:
            return
        time.sleep(0.05)


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _has(pid: int, mark: str) -> bool:
    try:
        return f"{_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return False


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
