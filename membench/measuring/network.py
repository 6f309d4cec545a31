"""What connects processes of this machine: their collectives timed, a model fitted, and how well it predicts.

Pure but for the processes that it starts; they import torch.
"""

import math
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from membench.errors import UsageError
from membench.layers.spec import COLLECTIVES, Collective, CollectiveKind
from membench.measuring.alpha_beta import fitted_lines
from membench.measuring.collectives import ELEMENT_BYTES
from membench.planning.network import AlphaBeta, FlatNetwork
from membench.processes.channel import Failed
from membench.processes.child import ChildProcess
from membench.processes.questions import DeviceFacts, RankQuestion

_ROUNDS = 20
_LEAST_BYTES, _SIZES, _SIZES_A_DOUBLING = 2**10, 29, 2
_MODULE = "membench.measuring.collectives"
_TIMEOUT_SECONDS = 300


def measured_network(device: str, ranks: int, threads: int) -> dict[str, Any]:
    """Every collective's fitted lines, and at each size what was measured and what they predict.

    Every other size is left out of the fit, and shows what it is worth.

    Raises:
        UsageError: a rank has ended, or there is no device for each.
    """
    backend, seconds = _timed(device, ranks, threads)
    lines: dict[CollectiveKind, tuple[AlphaBeta, ...]] = {}
    for kind in COLLECTIVES:
        lines[kind] = fitted_lines(kind, ranks, list(seconds[kind].items())[::2])
    network = FlatNetwork("", lines)
    return {
        "backend": backend,
        "ranks": ranks,
        "collectives": {
            kind: {
                "lines": [{"alpha_s": each.alpha_s, "bytes_per_s": each.bytes_per_s} for each in lines[kind]],
                "sizes": [
                    {
                        "payload_bytes": payload,
                        "fitted": number % 2 == 0,
                        "measured_s": measured,
                        "predicted_s": network.seconds(Collective(kind, payload, ranks)),
                    }
                    for number, (payload, measured) in enumerate(seconds[kind].items())
                ],
            }
            for kind in COLLECTIVES
        },
    }


def _timed(device: str, ranks: int, threads: int) -> tuple[str, dict[CollectiveKind, dict[int, float]]]:
    """(backend, seconds of each collective by payload bytes); the slowest rank's, of each sample."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_processes:
        processes = [open_processes.enter_context(_rank(threads)) for _ in range(ranks)]
        for rank, process in enumerate(processes):
            meeting = str(Path(folder) / "ranks")
            question = RankQuestion(
                device=device, rank=rank, ranks=ranks, meeting=meeting, payloads=_payloads(ranks), rounds=_ROUNDS
            )
            process.tell(question)
        answers = [process.hear(DeviceFacts) for process in processes]
    found = []
    for rank, answer in enumerate(answers):
        if isinstance(answer, Failed):
            raise UsageError(f"rank {rank} of {ranks}: {answer.reason}", source="--nproc")
        found.append(answer.facts)
    of_ranks = [facts["samples_s"] for facts in found]
    seconds: dict[CollectiveKind, dict[int, float]] = {}
    for kind in COLLECTIVES:
        seconds[kind] = {}
        for payload in of_ranks[0][kind]:
            slowest = map(max, zip(*(samples[kind][payload] for samples in of_ranks), strict=True))
            # the lowest decile: what others on the machine add, and waking up, is no property of the network
            seconds[kind][int(payload)] = statistics.quantiles(slowest, n=10, method="inclusive")[0]
    return found[0]["backend"], seconds


def _payloads(ranks: int) -> list[int]:
    """Bytes, each about 1.4 times the one before; every rank has as many whole elements of them."""
    share = ranks * ELEMENT_BYTES
    wanted = [_LEAST_BYTES * 2 ** (number / _SIZES_A_DOUBLING) for number in range(_SIZES)]
    return [math.ceil(size / share) * share for size in wanted]


def _rank(threads: int) -> ChildProcess:
    """One of several processes on the same cores: not all of them on the first, where a single one is bound."""
    return ChildProcess(
        _MODULE, threads=threads, timeout_seconds=_TIMEOUT_SECONDS, environment={"OMP_PROC_BIND": "false"}
    )
