"""What a process sends over torch.distributed in a step: each collective with its bytes and its time.

The calls are seen where torch dispatches them, so what any library sends is seen too. While they are looked at each is
waited for before the next operator begins: what a step would have computed meanwhile comes after it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from membench.layers.kernels.stages import observed_by
from membench.layers.spec import COLLECTIVES


@dataclass(frozen=True, slots=True)
class Call:
    """One collective: its kind, and what this rank sends.

    The kind is what the formulas call it: gloo has no reduce-scatter of unequal parts, so an all-to-all does the work
    of one.
    """

    kind: str
    sent_bytes: float
    seconds: float


class Wire(TorchDispatchMode):
    """``calls`` in their order. A context manager through ``watched``."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._device, self._stages = device, [""]

    @contextmanager
    def watched(self) -> Iterator["Wire"]:
        """Inside, collectives of this process are kept."""
        with observed_by(self), self:
            yield self

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Of an observer of stages."""
        return self._in(name)

    @contextmanager
    def _in(self, name: str) -> Iterator[None]:
        self._stages.append(name)
        try:
            yield
        finally:
            self._stages.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # what it is made of comes here in its turn
        name = func.name()
        space, _, operator = name.partition("::")
        kind = _kind(operator.partition(".")[0]) if space in ("c10d", "_c10d_functional") else None
        if kind is None:
            return func(*args, **(kwargs or {}))
        self._wait()
        begin = time.perf_counter()
        found = func(*args, **(kwargs or {}))
        if space == "c10d":
            dist.Work.unbox(found[-1] if isinstance(found, (tuple, list)) else found).wait()  # type: ignore[attr-defined]
        else:
            torch.ops._c10d_functional.wait_tensor(found)
        self._wait()
        seconds, stage = time.perf_counter() - begin, self._stages[-1]
        counted_as = next((each for each in COLLECTIVES if stage.startswith(each)), kind)
        sent = _sent(kind, args) if space == "c10d" else _sent_functional(kind, args, found)
        self.calls.append(Call(counted_as, sent, seconds))
        return found

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def _kind(operator: str) -> str | None:
    """The collective that an operator of torch's is; None for what sends nothing that counts."""
    for kind, starts in {
        "all_to_all": ("alltoall", "all_to_all"),
        "all_gather": ("_allgather", "allgather", "all_gather"),
        "reduce_scatter": ("_reduce_scatter", "reduce_scatter"),
        "all_reduce": ("allreduce", "all_reduce"),
    }.items():
        if operator.startswith(starts):
            return kind
    return None


def _sent(kind: str, args: Sequence[Any]) -> float:
    """Bytes that this rank sends: of a gather its part to each other, of an all-reduce 2(P-1)/P of the tensor."""
    if kind == "all_to_all":
        _, given, group, _, splits, *_ = args
        group = _group(group)
        if not len(given):
            return 0.0
        own = splits[group.rank()] if splits else len(given) // group.size()
        return float((len(given) - own) * given[0].nbytes)
    if kind == "all_gather":
        _, given, group, *_ = args
        return float(_bytes(given)) * (_group(group).size() - 1)
    if kind == "reduce_scatter":
        _, given, group, *_ = args
        ranks = _group(group).size()
        return _bytes(given) * (ranks - 1) / ranks
    reduced, group, *_ = args
    ranks = _group(group).size()
    return 2 * _bytes(reduced) * (ranks - 1) / ranks


def _sent_functional(kind: str, args: Sequence[Any], found: Any) -> float:
    """The same of a functional collective, whose group is the last argument, by name."""
    given = args[0]
    ranks = _resolve_process_group(args[-1]).size()
    if kind == "all_gather":
        return float(given.nbytes) * (ranks - 1)
    whole = max(given.nbytes, found.nbytes)
    return (2 if kind == "all_reduce" else 1) * whole * (ranks - 1) / ranks


def _group(boxed: Any) -> dist.ProcessGroup:
    return dist.ProcessGroup.unbox(boxed)


def _bytes(tensors: Any) -> int:
    return tensors.nbytes if isinstance(tensors, Tensor) else sum(map(_bytes, tensors))
