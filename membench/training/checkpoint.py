"""A run on disk, so that an interrupted one goes on where it was: one file, written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from membench.errors import UsageError, reason_of
from membench.files import blaming_output
from membench.layers.models.model import Model
from membench.layers.optim.layer_optimizer import LayerOptimizer

FILE = "checkpoint.pt"
_VERSION = 1
_NO_CHECKPOINT = "is no checkpoint that this version writes; remove it to begin anew"


class DamagedCheckpoint(UsageError):
    """A file that cannot be read as a checkpoint: a disk or another program has spoilt it."""


class Checkpoint:
    """The file of one run in its folder. ``identity`` says what is trained on what: no other run goes on from it.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path, self._identity = folder / FILE, identity
        with blaming_output(folder, "training"):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any], model: Model, optimizer: LayerOptimizer) -> None:
        """Writes them, as ``write`` does.

        Raises:
            UsageError: the folder cannot be written.
        """
        self.write({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()})

    def load(self, model: Model, optimizer: LayerOptimizer) -> dict[str, Any] | None:
        """The state of the last one, with which model and optimizer are filled; None: there is none.

        Raises:
            DamagedCheckpoint, UsageError: as ``read``; or several processes wrote it together.
        """
        state = self.read()
        if state is None:
            return None
        if "model" not in state:
            problem = "is of several processes that trained together; train with several, or name another folder"
            raise UsageError(problem, source=str(self.path))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state

    def write(self, state: dict[str, Any]) -> None:
        """In the place of the last one; a process that is killed meanwhile leaves that.

        Raises:
            UsageError: the folder cannot be written.
        """
        temporary = self.path.with_suffix(".new")
        try:
            with temporary.open("wb") as stream:
                torch.save({"version": _VERSION, "identity": self._identity, **state}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's word for a full disk
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise UsageError(f"cannot be written: {reason_of(error)}", source=str(self.path)) from None

    def read(self) -> dict[str, Any] | None:
        """The last one, on the CPU: a device need not hold it beside what it is copied into. None: there is none.

        Raises:
            DamagedCheckpoint: it cannot be read.
            UsageError: it is of another version or another run.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # bytes that mean nothing are unpickled to an error of any kind
            raise DamagedCheckpoint(_NO_CHECKPOINT, source=str(self.path)) from None
        if not isinstance(state, dict) or state.get("version") != _VERSION:
            raise UsageError(_NO_CHECKPOINT, source=str(self.path))
        if state["identity"] != self._identity:
            problem = "is of another model, task, training, seed or data; name another folder or remove it"
            raise UsageError(problem, source=str(self.path))
        return state
