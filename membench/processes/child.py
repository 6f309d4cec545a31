"""A process of ours from the outside: started, asked, and ended when it hangs."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from membench.processes.answering import Answer, Answering
from membench.processes.channel import Channel, Failed, Message, Ready, as_said
from membench.processes.environment import measuring_environment
from membench.processes.working_folder import working_folder

_HOME = Path(__file__).parent.parent.parent
_LAST_WORDS = 400  # characters of what it printed that are kept as a reason
_END_SECONDS = 30  # for which a process that has closed its end of the channel may take to end
_LOOK_SECONDS = 0.5  # between looks whether it still lives: what it started may hold its end of the channel open


class ChildProcess(Answering):
    """A module of membench in a process of its own. A context manager: leaving it ends the process.

    Args:
        module: what is run; it serves (``membench.processes.serving``).
        threads: CPU threads; None: all cores.
        timeout_seconds: it is ended when nothing is heard of it for so long.
        report: called with what it says that it is doing.
        environment: variables of its own beside those that measuring needs.
        home: the folder of the membench that it runs; None: this one.
        folders: where the user's code is, before installed packages; empty: the working folder, last.
    """

    def __init__(
        self,
        module: str,
        *,
        threads: int | None = None,
        timeout_seconds: float,
        report: Callable[[str], None] = lambda _: None,
        environment: Mapping[str, str] | None = None,
        home: Path | None = None,
        folders: Sequence[str] = (),
    ) -> None:
        super().__init__(report)
        self._ready = False
        self._deadline: float | None = None
        self._timeout_seconds = timeout_seconds
        self._printed = _place_for_what_is_printed()
        self._channel, end = Channel.pair()
        script = (home or _HOME) / "membench" / "processes" / "first.py"
        with end:
            self._process = subprocess.Popen(
                [sys.executable, *_flags(), str(script), module, str(end.fileno()), str(os.getpid()), *folders],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=[end.fileno()],
                cwd=None if working_folder() else "/",  # MKL loads nothing in a folder that was removed
                env={**measuring_environment(threads), **(environment or {})},
                start_new_session=True,
            )

    def ask(self, question: Message, wanted: type[Answer]) -> Answer | Failed:
        """The answer to a question, or why there is none."""
        self.tell(question)
        return self.hear(wanted)

    def tell(self, question: Message) -> None:
        """A question, answered later. That it is dead is found out when the answer is listened for."""
        self.pass_on(as_said(question))

    def pass_on(self, said: dict[str, Any]) -> None:
        """The same of a question that is not looked at."""
        self._deadline = None
        if not self._ready:  # a long question would fill the socket of one that never listens, and wait for ever
            self._ready = isinstance(self.hear(Ready), Ready)
        if not self.dead:
            with suppress(OSError):
                self._channel.pass_on(said)

    def hear(self, wanted: type[Answer]) -> Answer | Failed:
        """What it answers; one that died, or of which nothing was heard for too long, is ``dead`` from then on."""
        while (answer := self.hear_within(_LOOK_SECONDS, wanted)) is None:
            pass
        return answer

    def hear_within(self, seconds: float, wanted: type[Answer]) -> Answer | Failed | None:
        """The same, if it comes within so many seconds; None: not yet."""
        said = self.said_within(seconds)
        if said is None:
            return self.dead
        return self._heard(said, wanted)

    def said_within(self, seconds: float) -> dict[str, Any] | None:
        """What it says next, not yet read; None: nothing within so many seconds, or it is ``dead``."""
        if self.dead is not None:
            return None
        deadline = self._deadline = self._deadline or time.monotonic() + self._timeout_seconds
        try:
            if self._channel.waits(min(seconds, max(0.0, deadline - time.monotonic()))):
                said, self._deadline = self._channel.receive(), None
                self._ready = self._ready or said.get("message") == Ready.__name__
                return said
            if self._process.poll() is not None and not self._channel.waits(0):
                raise EOFError
        except (EOFError, OSError):
            self.dead = self._death()
            return None
        if time.monotonic() >= deadline:
            self.kill()
            reason = f"no progress for {self._timeout_seconds:g} s; the process was ended"
            self.dead = Failed(status="timeout", reason=reason, last=True)
        return None

    def _death(self) -> Failed:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return Failed(status="error", reason="the process closed the channel that it answers on", last=True)
        if code == -signal.SIGKILL:
            return Failed(status="oom", reason="the process was killed from outside, most likely for memory", last=True)
        self._printed.seek(0)
        words = [line for line in self._printed.read()[-_LAST_WORDS:].splitlines() if line.strip()]
        how = f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        reason = f"the process ended with {how}" + (f": {words[-1].strip()}" if words else "")
        return Failed(status="error", reason=reason, last=True)

    def kill(self) -> None:
        """End the process and whatever it started, which may outlive it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(self, *reason: Any) -> None:
        self.kill()
        self._channel.close()
        self._printed.close()


def _place_for_what_is_printed() -> IO[str]:
    """A file without a name; in memory where no folder can be written (a container's, all read only)."""
    try:
        return tempfile.TemporaryFile(encoding="utf-8", mode="w+", errors="replace")
    except OSError:
        if not hasattr(os, "memfd_create"):
            raise
        return os.fdopen(os.memfd_create("printed"), mode="w+", errors="replace")


def _signal_name(number: int) -> str:
    """Its name, or the number of a real-time signal, which has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _flags() -> list[str]:
    """How this interpreter was told to look for code: the child finds the same, and nothing beside its first file."""
    asked = {"-I": sys.flags.isolated, "-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site}
    return ["-P", *(flag for flag, given in asked.items() if given)]
