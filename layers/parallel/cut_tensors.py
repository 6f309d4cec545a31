"""Parameters that torch's libraries have cut over a device mesh (DTensor), of which this process has a part.

Told by what they have, so that a layer that one process has alone imports none of it.
"""

import torch.distributed as dist
from torch import Tensor


def is_cut(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "placements")


def own_part(tensor: Tensor) -> Tensor:
    """This process's part, which shares the tensor's memory; of a plain tensor all of it.

    What a collective still sends is waited for: until then it lies in no memory.
    """
    found = tensor.to_local() if is_cut(tensor) else tensor  # type: ignore[operator]
    return found.wait() if hasattr(found, "trigger_wait") else found  # type: ignore[operator]


def total_over_parts(number: Tensor, tensor: Tensor) -> Tensor:
    """The sum of a number over the processes that have the other parts of a cut tensor; copies of a part count once."""
    found = number.clone()
    for dimension, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
        if placement.is_shard():
            dist.all_reduce(found, group=tensor.device_mesh.get_group(dimension))  # type: ignore[attr-defined]
    return found


def whole_of(tensor: Tensor) -> Tensor:
    """A new tensor with the parts of all processes, who ask together; a plain tensor itself."""
    return tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[operator]
