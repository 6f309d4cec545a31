"""A run that goes on where it was interrupted, and starts anew where it may not."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from membench.errors import UsageError
from membench.running.journal import Journal, newest_journal

_REFUSED = 2  # the exit code for bad input


def run_membench(words: Sequence[str], folder: Path, scenario: str, **how: Any) -> int:
    """The exit code of ``membench run`` with these words: of an interrupted run's rest, where there is one.

    A run that was interrupted at another commit, say, is refused; its journal stays, and a new run begins.

    Args:
        words: that follow ``membench``, without ``--resume``.
        folder: where its results go.
        scenario: its name.
        how: what ``subprocess.run`` is asked for besides.
    """
    command = [sys.executable, "-m", "membench", *words]
    journal = newest_journal(folder, scenario)
    if journal is not None:
        code = subprocess.run([*command, "--resume"], check=False, **how).returncode
        if code != _REFUSED or _at_work(journal):
            return code
        print(f"{scenario}: {journal.name} may not go on; it is measured anew", file=sys.stderr, flush=True)
    return subprocess.run(command, check=False, **how).returncode


def _at_work(path: Path) -> bool:
    """Whether another run holds this journal."""
    journal = Journal(path)
    try:
        journal.hold()
    except UsageError:
        return True
    journal.release()
    return False
