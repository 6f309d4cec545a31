"""Signals that end a run, taken only where the caller left them as they were; and the one that tells of children."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def hear_of_children() -> None:
    """Undo what a caller that ignores SIGCHLD hands down: every command that we start would seem to succeed."""
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP are Ctrl-C: what is finished is kept and written.

    One that the caller ignores (``nohup``) stays ignored, and one that it handles stays its own. Only a main
    thread may take any.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    taken = []
    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        taken = [each for each in known if signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def finish_undisturbed() -> None:
    """From now on SIGTERM is not heard: torchrun sends it as soon as another rank is gone, and what is finished is
    still to be written. What takes too long is killed all the same."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
