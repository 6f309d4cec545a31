"""A model whose matrices are cut over all processes; tables and experts stay as their own exchange shares them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from membench.layers.models.model import Model
from membench.layers.parallel.fully_sharded import gather_for_use


def shard_matrices(model: Model, mesh: DeviceMesh) -> None:
    """Cuts all of a model but tables and experts over the processes of a mesh, block by block (FSDP2).

    The mesh need not be that of the processes that share a table: it is the data's, of all that train together.
    Give the model to an optimizer afterwards.
    """
    ignored: set[nn.Parameter] = {table.weight for table in model.tables()} | model.shards()
    for part in (*model.blocks, model):
        gather_for_use(part, mesh, ignored)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every process has all matrices, and methods other than the forward pass can be called."""
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
