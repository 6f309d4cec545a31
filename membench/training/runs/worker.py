"""A process of its own that trains one case on one seed. Killed, it loses what came after its last checkpoint."""

import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from membench.layers.spec import ModelSpec
from membench.processes.serving import Answers, Server, be_killed_first
from membench.running.protocol import Join, Joined
from membench.running.worker import prepare_process
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


class Worker:
    """Alone, or one of the ranks that train together: then that is what it is asked first."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.joined: Join | None = None

    def answers(self) -> Answers:
        """What it can be asked."""
        return {Join: self.join, TrainCase: self.train}

    def join(self, asked: Join) -> Joined:
        """Meet the other ranks."""
        prepare_process(asked.threads, asked.local_rank)
        from membench.measuring.meeting import meet

        meet(asked)
        self.joined = asked
        return Joined()

    def train(self, asked: TrainCase) -> CaseTrained:
        """One run of one seed."""
        begin = time.monotonic()
        if self.joined is None:
            take_cores(asked.cores)
        from membench.training.checkpoint import DamagedCheckpoint

        case = asked.case
        assert case.training is not None
        self.server.progress("ceiling of matrix products")
        dtype = "bfloat16" if case.training.autocast else case.layer.dtype
        ceilings = matmul_ceilings(asked.device, dtype, asked.ceilings)
        folder = self._folder(Path(asked.folder))
        try:
            trained = _trained(asked, folder, ceilings, self.server)
        except DamagedCheckpoint as error:  # the folder is this run's own: what it has lost it makes anew
            Path(error.source).unlink(missing_ok=True)  # which of several ranks has been the first to do so
            trained = _trained(asked, folder, ceilings, self.server)
        seconds = {"process": time.monotonic() - begin}
        return CaseTrained(trained=trained, ceilings=ceilings, seconds=seconds, ranks=self._ranks())

    def _folder(self, folder: Path) -> Path | None:
        """For checkpoints; None where it cannot be made, or not all ranks see it: a run without is a run all the same.

        It is made where rank 0 is: on another host it would be another folder.
        """
        made = _made(folder) if self.joined is None or self.joined.rank == 0 else None
        if self.joined is None:
            return made
        from membench.training.shared_checkpoint import seen_by_all

        return folder if seen_by_all(folder) else None

    def _ranks(self) -> list[dict[str, Any]]:
        """Who trained together, known to all of them; empty: this process alone."""
        if self.joined is None:
            return []
        import torch.distributed as dist

        found: list[dict[str, Any]] = [{}] * self.joined.ranks
        dist.all_gather_object(found, {"rank": self.joined.rank, "host": socket.gethostname()})
        return found


def _made(folder: Path) -> Path | None:
    """The folder; None where it cannot be made, on a full disk: a run without checkpoints is a run all the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _trained(asked: TrainCase, folder: Path | None, ceilings: dict[str, Any], server: Server) -> "Trained":
    from membench.training.shared_case import group_of
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
        matmul_flops_per_s=case.ranks * ceilings["matmul_flops_per_s"],
        group=group_of(case, asked.device),
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
    sys.exit(asking.serve(Worker(asking).answers()))
