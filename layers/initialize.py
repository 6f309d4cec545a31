"""Filling big tensors with normal noise at the speed of memory."""

import torch
from torch import Tensor

EXACT_ELEMENTS = 2**22
# The least prime above EXACT_ELEMENTS: coprime to every row width, so that a repeated block
# starts at another column each time and no two rows of a table come out alike.
BLOCK_ELEMENTS = 4_194_319


@torch.no_grad()
def fill_normal_(tensor: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill a contiguous tensor with normal numbers of mean 0, in place.

    Up to ``EXACT_ELEMENTS`` every number is drawn; beyond, one random block is repeated,
    because drawing 16 GiB takes longer than measuring with it.
    """
    if tensor.numel() <= EXACT_ELEMENTS:
        return tensor.normal_(0.0, std, generator=generator)
    block = torch.empty(BLOCK_ELEMENTS, dtype=tensor.dtype, device=tensor.device).normal_(0.0, std, generator=generator)
    return repeat_(tensor, block)


@torch.no_grad()
def repeat_(tensor: Tensor, block: Tensor) -> Tensor:
    """Fill a contiguous tensor with a block (elements,), over and over, in place."""
    for part in tensor.view(-1).split(len(block)):
        part.copy_(block[: part.numel()])
    return tensor
