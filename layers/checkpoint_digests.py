"""SHA-256 of each file of a checkpoint, made and checked by all processes, each some of the files."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

METADATA = ".metadata"  # torch's: where each tensor lies
Told = TypeVar("Told")


def digests(folder: Path) -> dict[str, str]:
    """Of the files that torch has written in a folder for this process, and of the list of all on the first one.

    Raises:
        OSError: one cannot be read.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    own = [*folder.glob(f"__{rank}_*.distcp"), *([folder / METADATA] if rank == 0 else [])]
    return {path.name: _digest(path) for path in own}


def check_digests(folder: Path, files: dict[str, str]) -> None:
    """Compares some of the files, other processes the others.

    Raises:
        ValueError: one is missing, or is not what was written.
    """
    names = sorted(files)
    for name in names if not dist.is_initialized() else names[dist.get_rank() :: dist.get_world_size()]:
        check_digest(folder, name, files)


def check_digest(folder: Path, name: str, files: dict[str, str]) -> None:
    """Compares one file.

    Raises:
        ValueError: it is missing, or is not what was written.
    """
    try:
        found = _digest(folder / name)
    except OSError as error:
        raise ValueError(f"{folder}: is damaged: {name}: {error.strerror}") from None
    if found != files.get(name):
        raise ValueError(f"{folder}: is damaged: {name} is not what was written (SHA-256)")


def digest_of(about: dict[str, Any]) -> str:
    """Of JSON values, in whatever order they are written."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def of_all(own: Told) -> list[Told]:
    """What each process tells, by rank; of one alone its own."""
    if not dist.is_initialized():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def raise_first(problems: Iterable[str | None]) -> None:
    """Raises on all processes what went wrong on any: none waits for one that has given up.

    Raises:
        ValueError: the first problem of those ``of_all``.
    """
    first = next((each for each in problems if each is not None), None)
    if first is not None:
        raise ValueError(first)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
