"""What a process sends over torch.distributed, in bytes, counted where the calls are dispatched."""

from collections import Counter
from contextlib import contextmanager

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from layers.kernels.stages import observed_by


class WireBytes(TorchDispatchMode):
    """``sent`` by the stage that sends it. torch's CommDebugMode counts calls, and no bytes.

    Of a gather a rank sends its part to each of the others; of an all-reduce, 2(P-1)/P of the tensor.
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
        name = func.name()
        if name.startswith("c10d::"):
            self.sent[self.stages[-1]] += bytes_of(name.removeprefix("c10d::"), args)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counting(self):
        with observed_by(self), self:
            yield self


def bytes_of(collective, args):
    if collective == "alltoall_base_":
        _, given, group, _, splits, *_ = args
        group = dist.ProcessGroup.unbox(group)
        own = splits[group.rank()] if len(given) else 0
        return (len(given) - own) * given[0].nbytes if len(given) else 0
    if collective == "_allgather_base_":
        _, given, group, *_ = args
        return given.nbytes * (dist.ProcessGroup.unbox(group).size() - 1)
    if collective == "allreduce_":
        (reduced,), group, *_ = args
        ranks = dist.ProcessGroup.unbox(group).size()
        return 2 * reduced.nbytes * (ranks - 1) / ranks
    raise AssertionError(f"{collective} is not counted")
