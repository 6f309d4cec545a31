"""Collectives of one rank, timed over a range of sizes. Run as a process of its own it is one of P ranks.

``membench.measuring.network`` starts them.
"""

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from membench.errors import Unavailable
from membench.layers.spec import COLLECTIVES, CollectiveKind
from membench.processes.questions import DeviceFacts, RankQuestion
from membench.processes.serving import Server

ELEMENT_BYTES = 4  # of a payload
_CALLS_BYTES, _MOST_CALLS = 2**21, 20  # of one sample
_MEET = timedelta(seconds=60)


def timed(question: RankQuestion) -> DeviceFacts:
    """Seconds of one call, a sample a round, of each collective at each size of the payload.

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
                    seconds = _sample(kind, payload_bytes, question.ranks, where)
                    if round_number:
                        samples[kind].setdefault(payload_bytes, []).append(seconds)
    finally:
        dist.destroy_process_group()
    return DeviceFacts(facts={"backend": backend, "samples_s": samples})


def _sample(kind: CollectiveKind, payload_bytes: int, ranks: int, where: object) -> float:
    """Mean seconds of one of some calls that follow each other; all ranks begin together."""
    import torch
    import torch.distributed as dist

    whole = torch.zeros(payload_bytes // ELEMENT_BYTES, device=where)  # type: ignore[arg-type]
    part, other = torch.zeros_like(whole[: len(whole) // ranks]), torch.zeros_like(whole)
    ways: dict[CollectiveKind, Callable[[], object]] = {
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_to_all": lambda: dist.all_to_all_single(other, whole),
    }
    call = ways[kind]
    call()
    dist.barrier()
    _finish(where)
    calls = max(1, min(_MOST_CALLS, _CALLS_BYTES // payload_bytes))
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    _finish(where)
    return (time.perf_counter() - begin) / calls


def _finish(where: object) -> None:
    import torch

    if isinstance(where, torch.device) and where.type == "cuda":
        torch.cuda.synchronize(where)


if __name__ == "__main__":
    sys.exit(Server().serve({RankQuestion: timed}))
