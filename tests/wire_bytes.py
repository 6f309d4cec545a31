"""What a process sends over torch.distributed, in bytes, counted where the calls are dispatched."""

from collections import Counter
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from layers.kernels.stages import observed_by

SEND_NOTHING = ("wait_tensor", "_wrap_tensor_autograd")


class WireBytes(TorchDispatchMode):
    """``sent`` by the stage that sends it; by the kind of collective where libraries without stages send.

    torch's CommDebugMode counts calls, and no bytes. Of a gather a rank sends its part to each of the others; of an
    all-reduce, 2(P-1)/P of the tensor.
    """

    def __init__(self):
        super().__init__()
        self.sent, self.stages = Counter(), []

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
            kind, count = bytes_of(name, args)
            self.sent[self.stages[-1] if self.stages else kind] += count
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counting(self):
        with observed_by(self), self:
            yield self


def bytes_of(collective, args):
    """Its kind, and what this process sends."""
    if collective == "alltoall_base_":
        _, given, group, _, splits, *_ = args
        group = dist.ProcessGroup.unbox(group)
        own = splits[group.rank()] if len(given) else 0
        return "all_to_all", (len(given) - own) * given[0].nbytes if len(given) else 0
    if collective == "_allgather_base_":
        _, given, group, *_ = args
        return "all_gather", given.nbytes * (dist.ProcessGroup.unbox(group).size() - 1)
    if collective == "_reduce_scatter_base_":
        kept, _, group, *_ = args
        return "reduce_scatter", kept.nbytes * (dist.ProcessGroup.unbox(group).size() - 1)
    if collective == "allreduce_":
        (reduced,), group, *_ = args
        ranks = dist.ProcessGroup.unbox(group).size()
        return "all_reduce", 2 * reduced.nbytes * (ranks - 1) / ranks
    if collective == "all_gather_into_tensor":
        given, ranks, _ = args
        return "all_gather", given.nbytes * (ranks - 1)
    if collective == "reduce_scatter_tensor":
        given, _, ranks, _ = args
        return "reduce_scatter", given.nbytes * (ranks - 1) / ranks
    raise AssertionError(f"{collective} is not counted")
