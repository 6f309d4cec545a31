"""A program that Ctrl-C reaches, however the tests were started."""

import signal
import subprocess
from typing import Any


def start(words: list[str], **options: Any) -> "subprocess.Popen[Any]":
    """As ``Popen``. What a shell starts in the background ignores interrupts and hands that on: not to this process."""
    return subprocess.Popen(words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)
