"""What a process sends over torch.distributed, in bytes, counted where the calls are dispatched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from layers.kernels.stages import observed_by

SEND_NOTHING = ("wait_tensor", "_wrap_tensor_autograd")


@dataclass(frozen=True)
class Call:
    """One collective among so many ranks, so far apart, and what this one sends in it."""

    kind: str
    ranks: int
    stride: int
    sent: float
    stage: str


class WireBytes(TorchDispatchMode):
    """``calls`` in the order in which they are made. torch's CommDebugMode counts calls, and no bytes.

    Of a gather a rank sends its part to each of the others; of an all-reduce, 2(P-1)/P of the tensor.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.stages = [], [""]  # libraries without stages send outside of any

    @contextmanager
    def stage(self, name):
        self.stages.append(name)
        try:
            yield
        finally:
            self.stages.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # what it is made of comes here in its turn
        library, _, name = func.name().partition("::")
        if library in ("c10d", "_c10d_functional") and name not in SEND_NOTHING:
            kind, group, sent = sent_by(name, args)
            if group.size() > 1:
                first, second, *_ = dist.get_process_group_ranks(group)
                self.calls.append(Call(kind, group.size(), second - first, sent, self.stages[-1]))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counting(self) -> Iterator["WireBytes"]:
        with observed_by(self), self:
            yield self


def sent_by(operator, args):
    """(kind, group, bytes that this rank sends) of one call."""
    if operator == "alltoall_base_":
        _, given, group, _, splits, *_ = args
        group = dist.ProcessGroup.unbox(group)
        own = splits[group.rank()]
        return "all_to_all", group, (len(given) - own) * given[0].nbytes if len(given) else 0
    if operator == "_allgather_base_":
        _, given, group, *_ = args
        group = dist.ProcessGroup.unbox(group)
        return "all_gather", group, given.nbytes * (group.size() - 1)
    if operator == "_reduce_scatter_base_":
        _, given, group, *_ = args
        group = dist.ProcessGroup.unbox(group)
        return "reduce_scatter", group, given.nbytes * (group.size() - 1) / group.size()
    if operator == "allreduce_":
        (reduced,), group, *_ = args
        group = dist.ProcessGroup.unbox(group)
        return "all_reduce", group, 2 * reduced.nbytes * (group.size() - 1) / group.size()
    if operator in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        given, group = args[0], _resolve_process_group(args[-1])
        if operator == "all_gather_into_tensor":
            return "all_gather", group, given.nbytes * (group.size() - 1)
        return "reduce_scatter", group, given.nbytes * (group.size() - 1) / group.size()
    raise AssertionError(f"{operator} is not counted")
