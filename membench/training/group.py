"""The processes that train one model together: each takes its slice of every step's samples."""

import math
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from membench.layers.models.fully_sharded import gathered, shard_matrices
from membench.layers.models.model import Model
from membench.layers.parallel.collectives import Gather
from membench.layers.parallel.exchange import Exchange
from membench.learning.settings import Training
from membench.learning.shared import check_shared
from membench.training.checkpoint import Checkpoint
from membench.training.clock import Spent
from membench.training.shared_checkpoint import SharedCheckpoint


@dataclass(frozen=True, slots=True)
class Group:
    """One process for itself."""

    exchange: Exchange | int = 1

    @property
    def fuses(self) -> bool:
        """Whether a backward pass may update rows itself; else their gradients are added up first."""
        return True

    def counts_energy(self, device: torch.device) -> bool:
        """Whether this process is the one that reads the counter of its device."""
        return True

    @property
    def agree(self) -> Callable[[Spent], Spent] | None:
        """Makes of what each process has spent what all have; None: this one is alone."""
        return None

    @property
    def writes(self) -> bool:
        """Whether this process writes what one alone would."""
        return True

    def checkpoint(self, folder: Path, identity: str) -> Checkpoint | SharedCheckpoint:
        """Of the run of this identity.

        Raises:
            UsageError: the folder cannot be made.
        """
        return Checkpoint(folder, identity)

    @property
    def replicas(self) -> int:
        """Groups of ranks that each hold all experts, and whose balancing losses are each a mean over their tokens."""
        return 1

    def check(self, settings: Training) -> None:
        """Raises UsageError where a setting is not for this group."""

    def share(self, model: Model) -> None:
        """Cuts a model's matrices, where there is anybody to share them with."""

    def slice(self, samples: Tensor) -> Tensor:
        """This process's, of the samples (S, …) of a step."""
        return samples

    def total(self, loss: Tensor) -> Tensor:
        """Of all processes."""
        return loss

    def largest(self, count: int | None, device: torch.device) -> int | None:
        """Of any process; they speak on their device."""
        return count

    def of_all(self, part: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
        """What ``part`` makes of samples (S, …), a sample in its first dimension: to the last bit the same for all
        processes, who may decide by it what comes next."""
        return part(samples)

    def sum_gradients(self, model: Model) -> None:
        """Of all processes."""

    @property
    def asking(self) -> Callable[[Model], AbstractContextManager[None]] | None:
        """Inside what it makes of a model, this can be asked; None: at any time."""
        return None


@dataclass(frozen=True, slots=True)
class Together(Group):
    """All processes of torch.distributed train on a slice each.

    ``exchange`` is that of tables and experts, whose groups may be smaller (``connect(R, replicas=G)``). Over ``mesh``,
    of one dimension and all processes, matrices are cut and gathered for each use; None: each process has them whole.
    """

    mesh: DeviceMesh | None = None

    @property
    def fuses(self) -> bool:
        return self.replicas == 1

    def counts_energy(self, device: torch.device) -> bool:
        """Each has its GPU; of a machine's processors the first of its processes counts what all have spent."""
        machines: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(machines, _machine())
        return device.type != "cpu" or machines.index(machines[dist.get_rank()]) == dist.get_rank()

    @property
    def agree(self) -> Callable[[Spent], Spent]:
        """The first one's clock is that of all; joules are added up, unknown where one does not know its own."""
        return _agreed

    @property
    def writes(self) -> bool:
        return dist.get_rank() == 0

    def checkpoint(self, folder: Path, identity: str) -> SharedCheckpoint:
        return SharedCheckpoint(folder, identity)

    @property
    def replicas(self) -> int:
        ranks = self.exchange if isinstance(self.exchange, int) else self.exchange.ranks
        return dist.get_world_size() // ranks

    def check(self, settings: Training) -> None:
        check_shared(settings, dist.get_world_size())

    def share(self, model: Model) -> None:
        if self.mesh is not None:
            shard_matrices(model, self.mesh)

    def slice(self, samples: Tensor) -> Tensor:
        return samples.tensor_split(dist.get_world_size())[dist.get_rank()]

    def total(self, loss: Tensor) -> Tensor:
        found = loss.clone()
        dist.all_reduce(found)
        return found

    def largest(self, count: int | None, device: torch.device) -> int | None:
        found = torch.tensor(-1 if count is None else count, device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return None if found < 0 else int(found)

    def of_all(self, part: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
        sizes = [len(each) for each in samples.tensor_split(dist.get_world_size())]
        own, everyone = part(self.slice(samples)), dist.group.WORLD
        assert everyone is not None
        return Gather(sizes, everyone).there(own.contiguous())

    @torch.no_grad()
    def sum_gradients(self, model: Model) -> None:
        model.sum_gradients()

    @property
    def asking(self) -> Callable[[Model], AbstractContextManager[None]] | None:
        return None if self.mesh is None else gathered


def _agreed(own: Spent) -> Spent:
    # over gloo, where it is there: no GPU is waited for
    device = "cpu" if "cpu:" in dist.get_backend_config() else "cuda"
    told = torch.tensor([math.nan if each is None else each for each in own], dtype=torch.float64, device=device)
    found = [torch.empty_like(told) for _ in range(dist.get_world_size())]
    dist.all_gather(found, told)
    (seconds, _, now), joules = found[0].tolist(), sum(float(each[1]) for each in found)
    return Spent(seconds, None if math.isnan(joules) else joules, now)


def _machine() -> str:
    """The same for processes that one counter of energy counts: containers have host names, and share a kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
    except OSError:
        return socket.gethostname()
