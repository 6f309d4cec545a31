"""Collectives of one rank, timed over a range of sizes. Run as a process of its own it is one of P ranks.

``membench.measuring.network`` starts them.
"""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from membench.errors import Unavailable
from membench.layers.spec import COLLECTIVES, CollectiveKind
from membench.processes.questions import DeviceFacts, RankQuestion
from membench.processes.serving import Server

if TYPE_CHECKING:
    import torch

ELEMENT_BYTES = 4  # of a payload
_CALLS_BYTES, _FEWEST_CALLS, _MOST_CALLS = 2**21, 2, 20  # in a round, at one size
_MEET = timedelta(seconds=60)


def timed(question: RankQuestion) -> DeviceFacts:
    """Seconds of single calls, some a round, of each collective at each size of the payload.

    Raises:
        Unavailable: fewer GPUs are there than ranks.
    """
    import torch
    import torch.distributed as dist

    cuda = question.device == "cuda"
    if cuda and torch.cuda.device_count() < question.ranks:
        raise Unavailable(f"{question.ranks} ranks want a GPU each, {torch.cuda.device_count()} are here")
    backend = "nccl" if cuda else "gloo"
    where = torch.device("cuda", question.rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    dist.init_process_group(
        backend,
        init_method=f"file://{question.meeting}",
        rank=question.rank,
        world_size=question.ranks,
        timeout=_MEET,
    )
    try:
        samples: dict[str, dict[int, list[float]]] = {kind: {} for kind in COLLECTIVES}
        for round_number in range(question.rounds + 1):  # the first warms up
            for kind in COLLECTIVES:
                for payload_bytes in question.payloads:
                    seconds = _samples(kind, payload_bytes, question.ranks, where)
                    if round_number:
                        samples[kind].setdefault(payload_bytes, []).extend(seconds)
    finally:
        dist.destroy_process_group()
    return DeviceFacts(facts={"backend": backend, "samples_s": samples})


def _samples(kind: CollectiveKind, payload_bytes: int, ranks: int, where: "torch.device") -> list[float]:
    """Seconds of calls that follow each other, all ranks beginning together; a GPU queues them: their mean."""
    import torch
    import torch.distributed as dist

    from membench.layers.parallel.collectives import reduce_scattered

    whole = torch.zeros(payload_bytes // ELEMENT_BYTES, device=where)
    part, other = torch.zeros_like(whole[: len(whole) // ranks]), torch.zeros_like(whole)
    assert dist.group.WORLD is not None
    everyone, sizes = dist.group.WORLD, [len(part)] * ranks
    ways: dict[CollectiveKind, Callable[[], object]] = {
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: reduce_scattered(whole, sizes, everyone),  # as layers do it
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_to_all": lambda: dist.all_to_all_single(other, whole),
    }
    call = ways[kind]
    call()
    dist.barrier()
    _finish(where)
    calls = max(_FEWEST_CALLS, min(_MOST_CALLS, _CALLS_BYTES // payload_bytes))
    ends = [time.perf_counter()]
    for _ in range(calls):
        call()
        ends.append(time.perf_counter())
    if where.type != "cuda":
        return [end - begin for begin, end in pairwise(ends)]
    _finish(where)
    return [(time.perf_counter() - ends[0]) / calls]


def _finish(where: "torch.device") -> None:
    import torch

    if where.type == "cuda":
        torch.cuda.synchronize(where)


if __name__ == "__main__":
    sys.exit(Server().serve({RankQuestion: timed}))
