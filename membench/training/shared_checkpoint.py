"""A run of several processes on disk: each writes its part of model and optimizer, the first one all else.

The parts of one state lie in a folder of their own (``membench.layers.sharded_checkpoint``). The file that is a run's
checkpoint of one process names it here, and is written once they are whole; the parts before are removed after that.
"""

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from membench.errors import UsageError, reason_of
from membench.layers import sharded_checkpoint
from membench.layers.checkpoint_digests import of_all
from membench.layers.models.model import Model
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.training.checkpoint import Checkpoint, DamagedCheckpoint

_PARTS = "parts-"
Told = TypeVar("Told")


class SharedCheckpoint:
    """As ``Checkpoint``, of all processes of torch.distributed, which call it alike with one folder that all see.

    Raises:
        UsageError: the folder cannot be made, or not all see what one writes there. As everywhere here, on all of them.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder, self._number = folder, 0
        self._file = _first_says(lambda: Checkpoint(folder, identity))
        if not seen_by_all(folder):
            raise UsageError("is not seen by all processes; name a folder that all hosts share", source=str(folder))

    def save(self, state: dict[str, Any], model: Model, optimizer: LayerOptimizer) -> None:
        """In the place of the last one; processes that are killed meanwhile leave that.

        Raises:
            UsageError: the folder cannot be written.
        """
        self._number += 1
        parts = self._folder / f"{_PARTS}{self._number:06}"
        _first_says(lambda: self._remove_parts(but=f"{_PARTS}{self._number - 1:06}"))
        try:
            sharded_checkpoint.save(parts, model, optimizer)
        except ValueError as error:
            self._number -= 1
            _first_says(lambda: shutil.rmtree(parts, ignore_errors=True))
            raise UsageError(reason_of(error)) from None
        try:
            _first_says(lambda: self._file.write({**state, "parts": parts.name}))
        except UsageError:
            self._number -= 1
            raise
        _first_says(lambda: self._remove_parts(but=parts.name))

    def load(self, model: Model, optimizer: LayerOptimizer) -> dict[str, Any] | None:
        """As ``Checkpoint.load``; it may have been written by any number of processes.

        Raises:
            DamagedCheckpoint: it cannot be read.
            UsageError: it is of another version or another run, or of one process.
        """
        state = _first_says(self._file.read)
        if state is None:
            return None
        if "parts" not in state:
            problem = "is of a process that trained alone; train with one, or name another folder"
            raise UsageError(problem, source=str(self._file.path))
        try:
            sharded_checkpoint.load(self._folder / state["parts"], model, optimizer)
        except ValueError as error:
            raise DamagedCheckpoint(reason_of(error), source=str(self._file.path)) from None
        self._number = int(state["parts"].removeprefix(_PARTS))
        return state

    def _remove_parts(self, but: str) -> None:
        """Of earlier states, and of those that were begun and not finished."""
        for each in self._folder.glob(f"{_PARTS}*"):
            if each.name != but:
                shutil.rmtree(each, ignore_errors=True)


def seen_by_all(folder: Path) -> bool:
    """Whether all processes of torch.distributed see what the first one writes in a folder; all call it alike."""

    def mark() -> str | None:
        name = f".seen-{secrets.token_hex(8)}"
        try:
            (folder / name).touch()
        except OSError:
            return None
        return name

    name = _first_says(mark)
    if name is None:
        return False
    seen = of_all((folder / name).exists())
    if dist.get_rank() == 0:
        with suppress(OSError):
            (folder / name).unlink()
    return all(seen)


def _first_says(action: Callable[[], Told]) -> Told:
    """What comes of an action of the first process, told to all.

    Raises:
        UsageError: what it raised.
    """
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = action()
        except UsageError as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]
