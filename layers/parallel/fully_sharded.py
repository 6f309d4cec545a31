"""Matrices cut over processes and gathered for each use: PyTorch's fully sharded data parallel (FSDP2).

Over gloo too: all-gathers and reduce-scatters of CPU tensors, which must not be asked for a mean.
"""

from collections.abc import Iterable

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def gather_for_use(module: nn.Module, mesh: DeviceMesh, ignored: Iterable[nn.Parameter] = ()) -> None:
    """Cuts the parameters of a module that no inner one has cut, by their first dimension, which may be uneven.

    They are gathered for the forward pass, and again for the backward pass. Gradients are the sum over all processes
    of the mesh, a part on each: what is summed already is not for ``Layer.sum_gradients``.

    Args:
        mesh: of one dimension; or of two, copies of the parts and the parts.
        ignored: parameters that stay as they are.
    """
    sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(ignored))
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
