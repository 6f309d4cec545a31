"""The processes that train one model together: each takes its slice of every step's samples."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from membench.errors import UsageError
from membench.layers.models.fully_sharded import gathered, shard_matrices
from membench.layers.models.model import Model
from membench.layers.parallel.exchange import Exchange
from membench.learning.settings import Training


@dataclass(frozen=True, slots=True)
class Group:
    """One process for itself."""

    exchange: Exchange | int = 1

    @property
    def fuses(self) -> bool:
        """Whether a backward pass may update rows itself; else their gradients are added up first."""
        return True

    @property
    def replicas(self) -> int:
        """Groups of ranks that each hold all experts, and whose balancing losses are each a mean over their tokens."""
        return 1

    def check(self, settings: Training, folder: Path | None) -> None:
        """Raises UsageError where a setting, or a folder for checkpoints, is not for this group."""

    def share(self, model: Model) -> None:
        """Cuts a model's matrices, where there is anybody to share them with."""

    def slice(self, samples: Tensor) -> Tensor:
        """This process's, of the samples (S, …) of a step."""
        return samples

    def total(self, loss: Tensor) -> Tensor:
        """Of all processes."""
        return loss

    def sum_gradients(self, model: Model) -> None:
        """Of all processes."""

    @property
    def asking(self) -> Callable[[Model], AbstractContextManager[None]] | None:
        """Inside what it makes of a model, this can be asked; None: at any time."""
        return None


@dataclass(frozen=True, slots=True)
class Together(Group):
    """The processes of ``mesh``, of one dimension, train on a slice each. Their matrices are cut over all of them.

    ``exchange`` is that of tables and experts, whose groups may be smaller (``connect(R, replicas=G)``).
    """

    mesh: DeviceMesh | None = None

    @property
    def fuses(self) -> bool:
        return False

    @property
    def replicas(self) -> int:
        ranks = self.exchange if isinstance(self.exchange, int) else self.exchange.ranks
        return dist.get_world_size(self._group) // ranks

    def check(self, settings: Training, folder: Path | None) -> None:
        if folder is not None:
            raise UsageError(
                "processes that train together would all write one file: layers.sharded_checkpoint saves their parts",
                source=str(folder),
            )
        if settings.stop.at in ("seconds", "joules"):
            raise UsageError(
                "processes that train together stop at steps, tokens or flops, which all of them count alike",
                key=f"training.stop.{settings.stop.at}",
            )
        if settings.compiled:
            raise UsageError("a model that processes share is not compiled", key="training.compiled")
        parts = dist.get_world_size(self._group) * settings.accumulate
        if settings.sequences % parts:
            raise UsageError(
                f"{settings.sequences} cannot be divided into {parts} equal parts, of processes and accumulation",
                key="training.sequences",
            )

    def share(self, model: Model) -> None:
        assert self.mesh is not None
        shard_matrices(model, self.mesh)

    def slice(self, samples: Tensor) -> Tensor:
        return samples.chunk(dist.get_world_size(self._group))[dist.get_rank(self._group)]

    def total(self, loss: Tensor) -> Tensor:
        found = loss.clone()
        dist.all_reduce(found, group=self._group)
        return found

    @torch.no_grad()
    def sum_gradients(self, model: Model) -> None:
        model.sum_gradients()

    @property
    def asking(self) -> Callable[[Model], AbstractContextManager[None]]:
        return gathered

    @property
    def _group(self) -> dist.ProcessGroup:
        assert self.mesh is not None
        return self.mesh.get_group()
