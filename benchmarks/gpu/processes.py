"""A command in a time box: it ends in time whatever it does, and nothing that it started outlives it."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

_GRACE_S = 6.0  # from SIGTERM to SIGKILL: a run of membench writes what it has
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Makes this process the parent of what its dead children leave behind, so that it can be ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def boxed(
    command: list[str],
    seconds: float,
    log: BinaryIO,
    environment: Mapping[str, str],
    folder: Path,
    every: Callable[[], None],
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
    grace = min(_GRACE_S, seconds / 4)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
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
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        return None
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        end_descendants()


def end_descendants() -> None:
    """Kills every process below this one, also those with a session of their own."""
    for _ in range(20):  # one may be starting another
        below = [pid for pid in _parents() if _is_below(pid)]
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not below:
            return
        _reap()
        time.sleep(0.05)


def _is_below(pid: int) -> bool:
    parents, own = _parents(), os.getpid()
    while pid in parents:
        pid = parents[pid]
        if pid == own:
            return True
    return False


def _parents() -> dict[int, int]:
    """The parent of every living process."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state != "Z":
            found[int(status.parent.name)] = int(parent)
    return found


def _reap() -> None:
    """Buries adopted children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
