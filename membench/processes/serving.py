"""A process of ours from the inside: it answers questions until there are no more."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from membench.case import Status
from membench.errors import Unavailable, reason_of
from membench.processes.channel import Channel, Failed, Message, Progress, Ready, read_message

_PR_SET_PDEATHSIG = 1
Answers = Mapping[type[Message], Callable[[Any], Message]]


class Server:
    """Answers what this process is asked. ``progress`` tells whoever waits for an answer what is being done."""

    def __init__(self) -> None:
        self._channel = Channel.inherited(int(sys.argv[1]))
        self._channel.send(Ready())

    def progress(self, doing: str) -> None:
        self._channel.send(Progress(doing=doing))

    def serve(self, answers: Answers, after_failure: Callable[[], None] = lambda: None) -> int:
        """Answer until nobody asks any more; returns the exit code.

        What an answer raises is a ``Failed``, and ``after_failure`` is called. It is the process's last answer if it
        is to the first question, which all others build upon, or an error of CUDA, which stays with the process.
        """
        first = True
        while True:
            try:
                question = self._channel.receive()
            except (EOFError, OSError):
                return 0
            try:
                self._channel.send(self._answer(question, answers))
                first = False
            except Exception as error:  # whatever a layer from outside raises is the reason that is told
                status, reason = classify(error)
                last = first or "CUDA error" in reason
                self._channel.send(Failed(status=status, reason=reason, last=last))
                if last:
                    return 1
                after_failure()

    @staticmethod
    def _answer(said: dict[str, Any], answers: Answers) -> Message:
        try:
            question = read_message(said, answers)
        except ValidationError as error:  # asked by a membench of another revision than the layers are of
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise Unanswerable(f"the layers here do not know what is asked: {key}: {first['msg']}") from None
        return answers[type(question)](question)


class Unanswerable(ValueError):
    """A question that this process does not understand."""


def classify(error: BaseException) -> tuple[Status, str]:
    """(status, reason): ``skipped`` where the device cannot, ``oom`` for memory, else ``error``; a reason is a line."""
    text = reason_of(error)
    if isinstance(error, Unavailable):
        return "skipped", text
    low_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    low_memory = low_memory or getattr(error, "errno", None) == errno.ENOMEM
    if low_memory or "can't allocate memory" in text or "out of memory" in text.lower():
        return "oom", text
    ours = isinstance(error, Unanswerable) or text.startswith("wrong answer")
    return "error", text if ours else f"{type(error).__name__}: {text}"


def live_no_longer_than(parent: int) -> None:
    """Asks the kernel (Linux) to end this process when ``parent``, which started it, ends, however it does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(1)


def be_killed_first() -> None:
    """Be the process that the kernel ends when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
