"""A text file line by line, as long as it may be."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from membench.errors import UsageError, shown
from membench.files import form_of

_PART_BYTES = 2**20


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file with something in it, to be read as bytes.

    Raises:
        UsageError: it is missing, empty, unreadable, or no file (a folder, a pipe).
    """
    try:
        known = Path(path)
        if known.exists() and not known.is_file():
            raise UsageError(f"is a {'folder' if known.is_dir() else 'device or pipe'}; name a file", source=path)
        with known.open("rb") as stream:
            if not stream.read(1):
                raise UsageError("is empty", source=path)
            stream.seek(0)
            yield stream
    except FileNotFoundError:
        raise UsageError("there is no such file", source=path) from None
    except UsageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"cannot be read: {getattr(error, 'strerror', None) or error}", source=path) from None


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text with their numbers from 1 and with their ends; a byte order mark is left out.

    Raises:
        UsageError: as ``opened``; a line is no UTF-8.
    """
    with opened(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"is no UTF-8 text: byte 0x{raw[error.start]:02x} at column {error.start + 1}{form_of(raw)}"
                raise UsageError(problem, key=f"line {number}", source=path) from None


def objects(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file, one a line, each with the place that a message names: ``line 3``.

    Raises:
        UsageError: as ``lines``; a line is no JSON, or no object.
    """
    for number, line in lines(path):
        if line.strip():
            place = f"line {number}"
            found = parsed(line, path, place)
            if not isinstance(found, dict):
                problem = f'should be an object of columns and values ({{"…": …}}), not {shown(found)}'
                raise UsageError(problem, key=place, source=path)
            yield place, found


def sha256_of(paths: Iterable[str]) -> str:
    """Of the content of files, one after the other.

    Raises:
        UsageError: as ``opened``.
    """
    digest = hashlib.sha256()
    for path in paths:
        with opened(path) as stream:
            while part := stream.read(_PART_BYTES):
                digest.update(part)
    return digest.hexdigest()


def parsed(text: str, path: str, place: str = "") -> Any:
    """JSON as plain data.

    Raises:
        UsageError: it is none; ``place`` is the line of the file that it is.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if place else f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"is no JSON: {error.msg} at {where}", key=place, source=path) from None
    except (RecursionError, ValueError):  # ValueError: an integer of more digits than Python converts
        raise UsageError(
            "is no JSON that can be read: nested too deeply, or a number too long", key=place, source=path
        ) from None


def text_in(found: dict[str, Any], column: str, path: str, place: str) -> str:
    """The text of a column.

    Raises:
        UsageError: there is no such column, or it holds no text; it names those that there are.
    """
    if column not in found:
        known = ", ".join(map(repr, found)) or "none"
        raise UsageError(f"there is no column {column!r}; columns are {known}", key=place, source=path)
    if not isinstance(found[column], str):
        raise UsageError(f"should be text, not {shown(found[column])}", key=f"{place}: {column}", source=path)
    return found[column]
