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
    because drawing 16 GiB takes longer than measuring with it. What is drawn is fp32 at least, and
    then rounded: of 16-bit uniform numbers torch's ``normal_`` makes normal ones without tails.
    """
    elements = tensor.numel() if tensor.numel() <= EXACT_ELEMENTS else BLOCK_ELEMENTS
    drawn = torch.empty(elements, dtype=torch.promote_types(tensor.dtype, torch.float32), device=tensor.device)
    return repeat_(tensor, drawn.normal_(0.0, std, generator=generator).to(tensor.dtype))


@torch.no_grad()
def repeat_(tensor: Tensor, block: Tensor) -> Tensor:
    """Fill a contiguous tensor with a block (elements,), over and over, in place."""
    for part in tensor.view(-1).split(len(block)):
        part.copy_(block[: part.numel()])
    return tensor
