"""Files read bounded, as what a user names may be a pipe or an endless device too, and written whole or not at all."""

import os
import tempfile
from pathlib import Path

from membench.errors import UsageError


def read_file(path: str | Path, max_bytes: int, wanted: str) -> str:
    """The UTF-8 text of a file, a byte order mark removed.

    Args:
        path: as the user gave it.
        max_bytes: no more than this is ever read.
        wanted: what to name instead, as in ``a YAML file``.

    Raises:
        UsageError: it is missing, a directory, unreadable, too big, or no UTF-8 text.
    """
    source = str(path)
    try:
        raw = _first_bytes(Path(path), max_bytes + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file", source=source) from None
    except IsADirectoryError:
        raise UsageError(f"is a directory; name {wanted}", source=source) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be read: {reason}", source=source) from None
    if len(raw) > max_bytes:
        raise UsageError(f"is over {max_bytes // 1024} KiB; name {wanted}", source=source)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"is no text file (UTF-8); name {wanted}", source=source)
    return text


def _first_bytes(path: Path, count: int) -> bytes:
    """Up to so many bytes. A pipe that nobody writes to reads as empty: to open it otherwise waits for ever."""
    if path.is_dir():
        raise IsADirectoryError
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        os.set_blocking(descriptor, True)
        return file.read(count)


def write_whole(path: Path, content: bytes) -> None:
    """Write whole or not at all: a temporary file beside it, synced, then renamed.

    Raises:
        OSError: the folder cannot be written or the disk is full; ``path`` is untouched.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
