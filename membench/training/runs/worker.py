"""A process of its own that trains one case on one seed. Killed, it loses what came after its last checkpoint."""

import os
import sys
import time
from pathlib import Path

from membench.processes.serving import Server, be_killed_first
from membench.training.runs.protocol import CaseTrained, TrainCase


def take_cores(cores: list[int]) -> None:
    """Run on these cores alone, a thread on each; before torch is imported, which binds its threads then."""
    be_killed_first()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(cores))
    import torch

    torch.set_num_threads(len(cores))


def train_case(asked: TrainCase, server: Server) -> CaseTrained:
    """One run of one seed."""
    begin = time.monotonic()
    take_cores(asked.cores)
    from membench.training.train import train

    case = asked.case
    assert case.task is not None
    assert case.training is not None
    trained = train(
        case.layer,
        case.task,
        case.training,
        asked.seed,
        device=asked.device,
        folder=Path(asked.folder),
        report=server.progress,
    )
    return CaseTrained(trained=trained, seconds={"process": time.monotonic() - begin})


if __name__ == "__main__":
    asking = Server()
    sys.exit(asking.serve({TrainCase: lambda asked: train_case(asked, asking)}))
