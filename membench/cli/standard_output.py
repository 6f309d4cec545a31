"""Standard output that may be full or closed: what was measured is not lost with it, and what is left to do is done."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from membench.files import rescue


class StandardOutput:
    """What is shown on it. The first failure is told by ``done``, after everything else."""

    def __init__(self) -> None:
        self._failure: OSError | None = None

    def take(self, show: Callable[[], object]) -> None:
        """Runs ``show``, which prints. A reader who closed a pipe has seen enough: that is no failure."""
        if self._failure is not None:
            return
        try:
            show()
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
        except OSError as error:
            self._failure = error
            discard_output()

    def done(self, where: str) -> None:
        """Nothing more will be shown.

        Args:
            where: what was shown, or the same, is to be had.

        Raises:
            OSError: something could not be shown.
        """
        if self._failure is not None:
            reason = self._failure.strerror or self._failure
            raise OSError(f"standard output cannot be written ({reason}); {where}")

    def done_or_kept(self, name: str, content: Callable[[], str]) -> None:
        """The same for what lies in no file: it is put into one called ``name``, else goes to standard error.

        Raises:
            OSError: something could not be shown; it says which file has it.
        """
        if self._failure is None:
            return
        text = content()
        path = rescue(text.encode(), name)
        if path is None:
            print(text, file=sys.stderr)
        self.done(f"it is in {path}" if path else "it is on standard error")


def discard_output() -> None:
    """What is left of standard output goes nowhere, so that the interpreter's last flush does not fail again."""
    with suppress(OSError, ValueError):  # it is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
