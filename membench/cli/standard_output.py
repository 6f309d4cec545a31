"""Standard output may be full or closed. Results are then not lost, and the command still finishes its work."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from membench.files import rescue


class StandardOutput:
    """Shows output. The first failure is kept, and raised by ``done`` after everything else."""

    def __init__(self) -> None:
        self._failure: OSError | None = None

    def take(self, show: Callable[[], object]) -> None:
        """Runs ``show``, which prints. If the reader has closed the pipe, that is no failure."""
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
        """Call it when everything was shown.

        Args:
            where: where else the output can be found.

        Raises:
            OSError: something could not be shown.
        """
        if self._failure is not None:
            reason = self._failure.strerror or self._failure
            raise OSError(f"standard output cannot be written ({reason}); {where}")

    def done_or_kept(self, name: str, content: Callable[[], str]) -> None:
        """As ``done``, for output that is in no file. On failure it goes to a file ``name``, or to standard error.

        Raises:
            OSError: something could not be shown; the message names the file.
        """
        if self._failure is None:
            return
        text = content()
        path = rescue(text.encode(), name)
        if path is None:
            print(text, file=sys.stderr)
        self.done(f"it is in {path}" if path else "it is on standard error")


def discard_output() -> None:
    """Sends the rest of standard output to the null device: the interpreter's last flush must not fail again."""
    with suppress(OSError, ValueError):  # it is not a file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
