"""A layer or model that several processes share, on disk, by torch.distributed.checkpoint: saved on P, loaded on any.

Every tensor is stored as a whole, by name, in the parts that processes hold, each with its place in the whole. Of what
several hold alike one copy is kept. Parts of tables and experts are of any size, where a DTensor's would have to be
those of ``torch.chunk``; so a planner names their places, and plain tensors are never taken for copies of each other.
Beside the parts lie their digests, for torch writes no checksums: a bit that has changed on the disk is found.

Letters: N rows, D columns.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from membench.layers.checkpoint_digests import (
    METADATA,
    check_digest,
    check_digests,
    digest_of,
    digests,
    of_all,
    raise_first,
)
from membench.layers.layer import Held, Layer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.optim.table_optimizer import DenseTableAdamW, TableOptimizer
from membench.layers.parallel.cut_tensors import is_cut, own_part

ABOUT = "layer.json"
_VERSION = 2
_STATE = "optimizer."  # before the name of the parameter that it is of


@dataclass(frozen=True, slots=True)
class _Part:
    """``tensor`` lies in a whole of ``shape``, from ``offsets`` on."""

    tensor: Tensor
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def chunk(self) -> ChunkStorageMetadata:
        return ChunkStorageMetadata(torch.Size(self.offsets), self.tensor.shape)


_Parts = list[tuple[str, _Part]]  # a process may have several of one name


def save(folder: str | Path, layer: Layer, optimizer: LayerOptimizer | None = None) -> None:
    """Writes the layer's parameters and buffers, and its optimizer's state. All processes call it with one folder.

    What is begun but not finished cannot be loaded; an earlier checkpoint in the same folder is lost with it.

    Raises:
        ValueError: the folder cannot be written.
    """
    folder, named = Path(folder), _named_parts(layer)
    parts = list(_parts_of(layer, named))
    if optimizer is not None:
        parts += _state_of(optimizer, named)
    (folder / ABOUT).unlink(missing_ok=True)
    own: dict[str, str] = {}
    problem = None
    try:
        state_dict_saver.save(
            {name: part.tensor for name, part in parts if is_cut(part.tensor)},
            storage_writer=FileSystemWriter(folder),
            planner=_SavePlanner([each for each in parts if not is_cut(each[1].tensor)]),
            no_dist=not dist.is_initialized(),
        )
        own = digests(folder)
    except (CheckpointException, OSError) as error:
        problem = f"{folder}: cannot be written: {_cause(error)}"
    found = of_all((own, problem))
    raise_first(problem for _, problem in found)
    if not dist.is_initialized() or dist.get_rank() == 0:
        files = {name: digest for digests_of_one, _ in found for name, digest in digests_of_one.items()}
        about = {"version": _VERSION, "spec": layer.spec.model_dump(mode="json"), "optimizer": _about(optimizer)}
        about["files"] = files
        try:
            text = json.dumps({**about, "sha256": digest_of(about)}, indent=1)
            (folder / ABOUT).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            problem = f"{folder}: cannot be written: {_cause(error)}"
    raise_first(of_all(problem))


def load(folder: str | Path, layer: Layer, optimizer: LayerOptimizer | None = None) -> None:
    """Fills a layer, and its optimizer where there is one, with what ``save`` wrote on any number of processes.

    Raises:
        ValueError: it is no finished checkpoint, it is damaged, or it is of another config or optimizer; then nothing
            of the layer is changed.
    """
    folder, problem = Path(folder), None
    about: dict[str, Any] = {}
    parts: list[tuple[str, _Part]] = []
    try:
        about, metadata = _about_of(folder)
        _check(folder, about, layer, optimizer)
        check_digests(folder, about["files"])
        parts = _parts_to_fill(folder, metadata, layer, optimizer)
    except ValueError as error:
        problem = str(error)
    raise_first(of_all(problem))
    try:
        state_dict_loader.load(
            {name: part.tensor for name, part in parts if is_cut(part.tensor)},
            storage_reader=FileSystemReader(folder),
            planner=_LoadPlanner([each for each in parts if not is_cut(each[1].tensor)]),
            no_dist=not dist.is_initialized(),
        )
    except CheckpointException as error:  # what could be read a moment ago cannot be any more
        raise ValueError(f"{folder}: is damaged: {_cause(error)}") from None
    if optimizer is not None:
        _restore(optimizer, about["optimizer"])


def _parts_to_fill(folder: Path, metadata: Metadata, layer: Layer, optimizer: LayerOptimizer | None) -> _Parts:
    """Of layer and optimizer, each known to be in the checkpoint."""
    named = _named_parts(layer)
    parts = list(_parts_of(layer, named))
    if optimizer is not None:
        _make_state(optimizer, named, metadata)
        parts += _state_of(optimizer, named)
    for name, part in parts:
        saved = metadata.state_dict_metadata.get(name)
        if not isinstance(saved, TensorStorageMetadata):
            raise ValueError(f"{folder}: lacks {name}")
        if tuple(saved.size) != part.shape:
            raise ValueError(f"{folder}: {name} is {tuple(saved.size)}, here {part.shape}")
    return parts


def _about_of(folder: Path) -> tuple[dict[str, Any], Metadata]:
    """What a checkpoint says of itself, and where its tensors lie."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{folder}: is no finished checkpoint of a layer") from None
    if not isinstance(about, dict) or about.get("version") != _VERSION:
        raise ValueError(f"{folder}: is no checkpoint that this version writes")
    if about.pop("sha256", None) != digest_of(about):
        raise ValueError(f"{folder}: is damaged: {ABOUT} is not what was written")
    check_digest(folder, METADATA, about["files"])  # before it is unpickled
    try:
        return about, FileSystemReader(folder).read_metadata()
    except Exception:  # of another torch: unpickling ends in an error of any kind
        raise ValueError(f"{folder}: is no finished checkpoint of a layer") from None


def _check(folder: Path, about: dict[str, Any], layer: Layer, optimizer: LayerOptimizer | None) -> None:
    own = layer.spec.model_dump(mode="json")
    differ = [key for key in own.keys() | about["spec"].keys() if own.get(key) != about["spec"].get(key)]
    if differ:
        key = min(differ)
        raise ValueError(f"{folder}: is of another layer: {key} is {about['spec'].get(key)!r}, here {own.get(key)!r}")
    if optimizer is not None and (about["optimizer"] or {}).get("name") != optimizer.name:
        found = (about["optimizer"] or {}).get("name", "no optimizer")
        raise ValueError(f"{folder}: is of {found}, here {optimizer.name}")


def _named_parts(layer: Layer) -> dict[Tensor, tuple[str, Held | None]]:
    """Of each parameter its name in the whole layer, and its place there; None: it is all of it."""
    held: dict[Tensor, tuple[str, Held | None]] = {}
    for prefix, module in layer.named_modules():
        if isinstance(module, Layer):
            for parameter, place in module.held().items():
                held.setdefault(parameter, (f"{prefix}.{place.name}" if prefix else place.name, place))
    return {p: held.get(p, (name, None)) for name, p in layer.named_parameters()}


def _parts_of(layer: Layer, named: dict[Tensor, tuple[str, Held | None]]) -> Iterator[tuple[str, _Part]]:
    for parameter, (name, held) in named.items():
        yield name, _part(parameter.detach(), held)
    for name, buffer in layer.named_buffers():
        yield name, _part(buffer, None)


def _part(tensor: Tensor, held: Held | None, dimensions: int | None = None) -> _Part:
    """Of what has a parameter's place, or of its first ``dimensions`` where it has no more."""
    if held is None:
        return _Part(tensor, tuple(tensor.shape), (0,) * tensor.ndim)
    return _Part(own_part(tensor), held.shape[:dimensions], held.offsets[:dimensions])


def _state_of(optimizer: LayerOptimizer, named: dict[Tensor, tuple[str, Held | None]]) -> Iterator[tuple[str, _Part]]:
    for each in _torch_optimizers(optimizer):
        for parameter, state in each.state.items():
            name, held = named[parameter]
            for key, tensor in state.items():
                like = tensor.shape == parameter.shape
                yield f"{_STATE}{name}.{key}", _part(tensor, held if like else None)
    for each in optimizer.tables:
        if isinstance(each, TableOptimizer):
            name, held = named[each.table.weight]
            for key, tensor in each.state.named_tensors().items():
                # a number of each row is the same under all column shards
                yield f"{_STATE}{name}.{key}", _part(tensor, held, tensor.ndim)


def _torch_optimizers(optimizer: LayerOptimizer) -> list[torch.optim.Optimizer]:
    return [*optimizer.matrices, *(each.adamw for each in optimizer.tables if isinstance(each, DenseTableAdamW))]


def _make_state(optimizer: LayerOptimizer, named: dict[Tensor, tuple[str, Held | None]], metadata: Metadata) -> None:
    """What torch's optimizers make in their first step, as far as the checkpoint has it."""
    for each in _torch_optimizers(optimizer):
        for parameter in (p for group in each.param_groups for p in group["params"]):
            prefix = f"{_STATE}{named[parameter][0]}."
            for name, saved in metadata.state_dict_metadata.items():
                if name.startswith(prefix) and isinstance(saved, TensorStorageMetadata):
                    counter = not saved.size
                    made = torch.zeros((), dtype=torch.float32) if counter else torch.zeros_like(parameter)
                    each.state[parameter][name.removeprefix(prefix)] = made.to(parameter.device)


def _about(optimizer: LayerOptimizer | None) -> dict[str, Any] | None:
    """What of an optimizer is no tensor: numbers of the groups, and of tables how many updates there were."""
    if optimizer is None:
        return None
    matrices = optimizer.param_groups[: len(optimizer.param_groups) - len(optimizer.tables)]
    return {
        "name": optimizer.name,
        "matrices": _numbers(matrices[0]) if matrices else {},
        "tables": [
            {"group": _numbers(each.param_groups[0])}
            | ({"number": each.number, "seed": each.seed} if isinstance(each, TableOptimizer) else {})
            for each in optimizer.tables
        ],
    }


def _restore(optimizer: LayerOptimizer, about: dict[str, Any]) -> None:
    matrices = optimizer.param_groups[: len(optimizer.param_groups) - len(optimizer.tables)]
    for group in matrices:
        group.update(_as_given(about["matrices"]))
    for each, saved in zip(optimizer.tables, about["tables"], strict=True):
        each.param_groups[0].update(_as_given(saved["group"]))
        if isinstance(each, TableOptimizer):
            each.number, each.seed = saved["number"], saved["seed"]


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _as_given(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()}


def _cause(error: BaseException) -> str:
    """Of torch's account of all processes, what went wrong on the first one, in a line."""
    failures = getattr(error, "failures", None)
    first = next(iter(failures.values()))[0] if failures else error
    return " ".join(str(first).split()) or type(first).__name__


class _SavePlanner(DefaultSavePlanner):
    """Saves ``parts`` beside the DTensors that it is given."""

    def __init__(self, parts: _Parts) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._parts = parts

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        items = [
            WriteItem(
                MetadataIndex(name, part.chunk.offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    part.chunk, TensorProperties.create_from_tensor(part.tensor), torch.Size(part.shape)
                ),
            )
            for name, part in self._parts
        ]
        self.plan = dataclasses.replace(plan, items=[*plan.items, *items])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        if index.fqn in self.state_dict:
            return super().lookup_object(index)
        wanted = index.fqn, index.offset
        return next(part.tensor for name, part in self._parts if (name, part.chunk.offsets) == wanted)


class _LoadPlanner(DefaultLoadPlanner):
    """Fills ``parts`` beside the DTensors that it is given."""

    def __init__(self, parts: _Parts) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._parts = parts

    def create_local_plan(self) -> LoadPlan:
        plan = super().create_local_plan()
        assert self.metadata is not None
        items = []
        for number, (name, part) in enumerate(self._parts):
            saved = self.metadata.state_dict_metadata[name]
            assert isinstance(saved, TensorStorageMetadata)
            # by its number it is found again: a process may have two parts to fill with the same numbers
            index = MetadataIndex(name, part.chunk.offsets, number)
            found = create_read_items_for_chunk_list(name, saved, [part.chunk])
            items += [dataclasses.replace(item, dest_index=index) for item in found]
        return dataclasses.replace(plan, items=[*plan.items, *items])

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        if index.fqn in self.state_dict:
            return super().lookup_tensor(index)
        assert index.index is not None
        return self._parts[index.index][1].tensor
