"""Files read bounded, as what a user names may be a pipe or an endless device too, and written whole or not at all."""

import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from membench.errors import UsageError

_FORMS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "compressed (gzip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"PK\x03\x04": "a zip archive",
    b"\x93NUMPY": "a NumPy array",
}
_MAX_LINKS = 40  # as Linux follows
_TRIAL_BYTES = 2**16  # of a file that is tried before a measurement: more than a full disk takes
_IN_PLACE = {errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EROFS}  # of a folder, or a file mounted alone
_DESCRIPTOR_FOLDER = re.compile(r"/proc/(self|[0-9]+)(/task/[0-9]+)?/fd")


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
        raise UsageError(f"is no text file (UTF-8){form_of(raw)}; name {wanted}", source=source)
    return text


def form_of(raw: bytes) -> str:
    """What bytes are instead of text, by the first of them, as in ``, it is UTF-16``; nothing where it is unknown."""
    return next((f", it is {name}" for start, name in _FORMS.items() if raw.startswith(start)), "")


def read_text(path: str | Path) -> str | None:
    """A small file of the system (``/proc``, ``/sys``), stripped; None where it cannot be read."""
    with suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8").strip()
    return None


def _first_bytes(path: Path, count: int) -> bytes:
    """Up to so many bytes. A pipe that nobody writes to reads as empty: to open it otherwise waits for ever."""
    if path.is_dir():
        raise IsADirectoryError
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        os.set_blocking(descriptor, True)
        return file.read(count)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, synced, then renamed.

    A link stays one: what it points to is written. A file that was there keeps its mode and its owner. Where no file
    can be put in its place (its folder is not ours to write, it is mounted by itself, it is another's) it is written
    in place, and so is what is no file on a disk: ``/dev/stdout``, a pipe that is being read.

    Raises:
        OSError: the folder cannot be written or the disk is full; ``path`` is untouched, but where it is written
            in place.
    """
    target = _followed(path)
    known = _stat(target)
    if known is not None and (_is_descriptor(target) or not stat.S_ISREG(known.st_mode)):
        _write_in_place(target, content)
        return
    if known is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    try:
        _replace(target, content, known)
    except OSError as error:
        if known is None or error.errno not in _IN_PLACE:
            raise
        _write_in_place(target, content)


def append_text(path: Path, text: str) -> None:
    """Text at the end of a file that others write too.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("a", encoding="utf-8", errors="replace") as stream:
        stream.write(text)


def check_writable(path: Path, source: str) -> None:
    """Refuses, before anything takes long, what ``write_whole`` could not write after it. Leaves nothing behind.

    Raises:
        UsageError: its folder is not there or not ours, its name is too long, the disk is full; ``source`` is
            the option that names it.
    """
    with blaming_output(path, source):
        target = _followed(path)
        known = _stat(target)
        if known is None:
            _try_out(target)
        elif stat.S_ISDIR(known.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        elif not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif stat.S_ISREG(known.st_mode) and not _is_descriptor(target):
            try:
                _try_out(_beside(target))
            except OSError as error:
                if error.errno not in _IN_PLACE:
                    raise


@contextmanager
def blaming_output(path: Path, source: str) -> Iterator[None]:
    """Makes a line of every failure inside to write ``path``, which option ``source`` names.

    Raises:
        UsageError: there was one.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written ({reason})", source=source) from None


def rescue(content: bytes, name: str) -> Path | None:
    """Writes what could not go where it belongs: into the temporary folder, else this one, else home.

    Returns:
        Where it is; None if none of them can be written.
    """
    for folder in (tempfile.gettempdir, Path.cwd, Path.home):
        with suppress(OSError, RuntimeError):  # there is no temporary folder, no working one, no home
            path = _unused(Path(folder()), name)
            write_whole(path, content)
            return path
    return None


def _unused(folder: Path, name: str) -> Path:
    """A path of this name that nothing has; numbered where something has it."""
    path, number = folder / name, 2
    while os.path.lexists(path):
        path, number = folder / f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
    return path


def _followed(path: Path) -> Path:
    """Where a chain of links leads. A process's descriptor (``/dev/stdout``) stays one: what it is open on may have
    no name."""
    for _ in range(_MAX_LINKS):
        if not path.is_symlink() or _is_descriptor(path):
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _is_descriptor(path: Path) -> bool:
    return _DESCRIPTOR_FOLDER.fullmatch(os.path.realpath(path.parent)) is not None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _beside(target: Path) -> Path:
    """A short new name in the same folder, whatever the length of the file's own."""
    return target.with_name(f".membench-{secrets.token_hex(8)}.tmp")


def _replace(target: Path, content: bytes, known: os.stat_result | None) -> None:
    temporary = _beside(target)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask says
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if known is not None:
                _take_after(descriptor, known)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _take_after(descriptor: int, known: os.stat_result) -> None:
    """Owner and mode of the file that is replaced."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (known.st_uid, known.st_gid):
        os.fchown(descriptor, known.st_uid, known.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(known.st_mode))


def _write_in_place(target: Path, content: bytes) -> None:
    """Over what is there; after it, where it is a descriptor, which has a place of its own."""
    after = os.O_APPEND if _is_descriptor(target) else 0
    at_once = getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody reads is an error, else it would wait for ever
    descriptor = os.open(target, os.O_WRONLY | after | at_once)
    with os.fdopen(descriptor, "wb") as stream:
        os.set_blocking(descriptor, True)
        stream.write(content)
        stream.flush()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            if not after:
                stream.truncate()
            os.fsync(descriptor)


def _try_out(path: Path) -> None:
    """Makes a file that is not there, with something in it, and removes it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        if os.write(descriptor, bytes(_TRIAL_BYTES)) < _TRIAL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()
