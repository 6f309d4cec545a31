"""One worker process, watched: its events as they come, and an end when it hangs."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from membench.process_environment import measuring_environment
from membench.records import Status

_LAST_WORDS = 400  # characters of standard error kept as a reason


class WorkerDied(RuntimeError):
    """The process ended without saying that it was done."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason


class WorkerProcess:
    """A module run in a process of its own on one job (a line of JSON). A context manager: leaving it ends the process.

    Args:
        job_json: what it is asked to do.
        threads: CPU threads; None: all cores.
        module: what is run.
        environment: variables of its own beside those that measuring needs.
        asked: whether questions follow, by ``ask``; else its standard input ends with the job.
    """

    def __init__(
        self,
        job_json: str,
        threads: int | None,
        module: str = "membench.worker",
        environment: Mapping[str, str] | None = None,
        *,
        asked: bool = False,
    ) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**measuring_environment(threads), **(environment or {})},
            start_new_session=True,
        )
        self.ask(job_json)
        if not asked:
            self._close_input()
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, line: str) -> None:
        """One line to its standard input; if it is dead, ``events`` says why."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def events(self, timeout_seconds: float) -> Iterator[dict[str, Any]]:
        """Events until ``done``; raises what ``next_event`` raises."""
        while True:
            event = self.next_event(timeout_seconds)
            yield event
            if event["event"] == "done":
                return

    def next_event(self, timeout_seconds: float) -> dict[str, Any]:
        """What it says next.

        Raises:
            WorkerDied: it was killed (status ``oom`` where the kernel did it), failed, or no
                event came for ``timeout_seconds`` (status ``timeout``).
        """
        try:
            line = self._lines.get(timeout=timeout_seconds)
        except queue.Empty:
            self.kill()
            raise WorkerDied("timeout", f"no progress for {timeout_seconds:g} s; the process was ended") from None
        if line is None:
            raise self._death()
        event = json.loads(line)
        if event["event"] == "failed":
            raise WorkerDied(event["status"], event["reason"])
        return event

    def _death(self) -> WorkerDied:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return WorkerDied("oom", "the process was killed from outside, most likely for memory")
        self._errors.seek(0)
        words = [line for line in self._errors.read()[-_LAST_WORDS:].splitlines() if line.strip()]
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return WorkerDied("error", f"the process ended with {how}" + (f": {words[-1].strip()}" if words else ""))

    def kill(self) -> None:
        """End the process and whatever it started, which may outlive it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *reason: Any) -> None:
        self.kill()
        self._errors.close()
