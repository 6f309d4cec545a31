"""Inputs that one process of a run has drawn, for the processes after it.

Inputs are a function of the case's seed and of the weights that choose, so every round has the same; where a layer
stands for one of many ranks, drawing them takes longer than measuring. A file that is missing, cut or changed is as
if it had never been: what it holds is drawn anew.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from membench.case import Case
from membench.layers.checking.digest import Digest
from membench.layers.layer import Layer, RemoteAssignments, RemoteLookups, Routing
from membench.measuring.inputs import Input
from membench.measuring.traffic import Traffic

_STORED_BYTES = 2**28  # larger pools are drawn as fast as they would be read
_FOLDER_BYTES = 2**30  # the folder for temporary files may lie in memory
_REMOTE = {kind.__name__: kind for kind in (RemoteLookups, RemoteAssignments)}
_DAMAGED = (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, TypeError, KeyError, AttributeError)
Pool = list[tuple[Input, Traffic]]  # each with what it touches


class InputStore:
    """A folder of a run's drawn inputs, one file for whatever draws alike: the companion's beside its twin's, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, layer: Layer, case: Case) -> str | None:
        """The file of a case's inputs; None where they are not kept: of a layer from outside, and of a trace."""
        if layer.FROM_OUTSIDE or case.routing.kind == "trace":
            return None
        settings, tensors = layer.drawn_by()
        digest = Digest()
        for number, tensor in enumerate(tensors):
            digest.add(str(number), tensor)
        asked = case.model_dump(mode="json", include={"tokens", "sequences", "context", "ranks", "routing", "seed"})
        identity = json.dumps([settings, asked, digest.hexdigest()], sort_keys=True)
        return f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.pt"

    def load(self, name: str, count: int, device: str) -> Pool | None:
        """The first ``count`` inputs of a file; None where it does not hold as many, or not what was saved."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            held = torch.load(path, map_location=device, weights_only=True)
            if len(held["inputs"]) < count or held["digest"] != _digest(held["inputs"]):
                return None
            pairs = zip(held["inputs"][:count], held["traffic"], strict=False)
            return [(_input_of(found), Traffic(**traffic)) for found, traffic in pairs]
        except _DAMAGED:
            return None

    def _held_bytes(self) -> int:
        with suppress(OSError):
            return sum(path.stat().st_size for path in self.folder.iterdir())
        return 0

    def save(self, name: str, pool: Pool) -> None:
        """Keeps a pool where it is worth it and the disk takes it."""
        inputs = [_plain(each) for each, _ in pool]
        size = sum(tensor.nbytes for each in inputs for tensor in _tensors(each).values())
        if size > _STORED_BYTES or self._held_bytes() + size > _FOLDER_BYTES:
            return
        held = {"digest": _digest(inputs), "inputs": inputs, "traffic": [asdict(traffic) for _, traffic in pool]}
        part = self.folder / f"{name}.part"
        try:
            torch.save(held, part)
            part.replace(self.folder / name)
        except (OSError, RuntimeError):  # torch raises the latter on a full disk
            part.unlink(missing_ok=True)


def _plain(given: Input) -> dict[str, Any]:
    """An input as dicts of tensors."""
    routing = given.routing
    if routing is None:
        return {"x": given.x, "routing": None}
    remote = routing.remote
    return {
        "x": given.x,
        "routing": {"selected": routing.selected, "weights": routing.weights},
        "remote": None if remote is None else {each.name: getattr(remote, each.name) for each in fields(remote)},
        "remote_kind": type(remote).__name__,
    }


def _input_of(held: dict[str, Any]) -> Input:
    if held["routing"] is None:
        return Input(held["x"], None)
    remote = None if held["remote"] is None else _REMOTE[held["remote_kind"]](**held["remote"])
    return Input(held["x"], Routing(remote=remote, **held["routing"]))


def _tensors(held: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested dicts by their dotted names."""
    found: dict[str, Tensor] = {}
    for name, value in held.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            found |= _tensors(value, f"{prefix}{name}.")
    return found


def _digest(inputs: list[dict[str, Any]]) -> str:
    digest = Digest()
    for number, each in enumerate(inputs):
        for name, tensor in _tensors(each).items():
            digest.add(f"{number} {name}", tensor)
    return digest.hexdigest()
