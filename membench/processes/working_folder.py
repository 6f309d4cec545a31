"""The folder that a process was started in, searched after all others.

Nothing is imported here that this folder could hide: ``os`` and ``sys`` are there before any code of anybody's.
"""

import os
import sys


def working_folder() -> str | None:
    """Its path; None where it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not there yet
    except OSError:
        return None


def without_working_folder(path: list[str]) -> list[str]:
    """A search path without it, in whatever way it is written there: also through a link, as a shell's $PWD is."""
    here = working_folder()
    if here is None:
        return list(filter(None, path))
    return [entry for entry in path if entry and os.path.realpath(entry) != here]


def search_working_folder_last() -> None:
    """What lies there hides nothing any more."""
    here = working_folder()
    sys.path[:] = [*without_working_folder(sys.path), *([] if here is None else [here])]
