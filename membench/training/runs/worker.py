"""A process of its own that trains one case on one seed. Killed, it loses what came after its last checkpoint."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from membench.layers.spec import ModelSpec
from membench.processes.serving import Server, be_killed_first
from membench.training.runs.protocol import CaseTrained, TrainCase

if TYPE_CHECKING:
    from membench.training.trained import Trained


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
    from membench.training.checkpoint import DamagedCheckpoint

    case = asked.case
    assert case.training is not None
    server.progress("ceiling of matrix products")
    ceilings = matmul_ceilings(asked.device, "bfloat16" if case.training.autocast else case.layer.dtype, asked.ceilings)
    folder = _made(Path(asked.folder))
    try:
        trained = _trained(asked, folder, ceilings, server)
    except DamagedCheckpoint as error:  # the folder is this run's own: what it has lost it makes anew
        Path(error.source).unlink()
        trained = _trained(asked, folder, ceilings, server)
    return CaseTrained(trained=trained, ceilings=ceilings, seconds={"process": time.monotonic() - begin})


def _made(folder: Path) -> Path | None:
    """The folder; None where it cannot be made, on a full disk: a run without checkpoints is a run all the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _trained(asked: TrainCase, folder: Path | None, ceilings: dict[str, Any], server: Server) -> "Trained":
    from membench.training.train import train

    case = asked.case
    assert case.task is not None
    assert case.training is not None
    return train(
        cast(ModelSpec, case.layer),  # as a case of level training has it
        case.task,
        case.training,
        asked.seed,
        device=asked.device,
        folder=folder,
        report=lambda doing, share: server.progress(f"{doing} ({share:.0%})"),
        matmul_flops_per_s=ceilings["matmul_flops_per_s"],
    )


def matmul_ceilings(device: str, dtype: str, known: dict[str, Any]) -> dict[str, Any]:
    """What MFU is a share of: as it is known, or measured here."""
    from membench.layers.layer import torch_dtype
    from membench.measuring.ceilings import matmul_ceiling
    from membench.measuring.time import Clock

    if known.get("matmul_dtype") == dtype:
        return known
    return {"matmul_flops_per_s": matmul_ceiling(Clock(device), torch_dtype(dtype)), "matmul_dtype": dtype}


if __name__ == "__main__":
    asking = Server()
    sys.exit(asking.serve({TrainCase: lambda asked: train_case(asked, asking)}))
