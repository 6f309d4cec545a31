"""Filling big tensors with normal noise at the speed of memory."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_ELEMENTS = 2**22
# The least prime above EXACT_ELEMENTS: coprime to every row width, so that a repeated block
# starts at another column each time and no two rows of a table come out alike.
BLOCK_ELEMENTS = 4_194_319


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies in a whole tensor of ``shape``: from ``offsets`` on.

    All but a matrix is cut by its first dimension alone.
    """

    shape: tuple[int, ...]
    offsets: tuple[int, ...]


@torch.no_grad()
def fill_normal_(
    tensor: Tensor, std: float, generator: torch.Generator | None = None, place: Place | None = None
) -> Tensor:
    """Fill a contiguous tensor with normal numbers of mean 0, in place.

    Up to ``EXACT_ELEMENTS`` every number is drawn; beyond, one random block is repeated,
    because drawing 16 GiB takes longer than measuring with it. What is drawn is fp32 at least, and
    then rounded: of 16-bit uniform numbers torch's ``normal_`` makes normal ones without tails.

    Args:
        place: of a whole, whose numbers at this place it gets. The generator is then left as by the whole.
    """
    count = tensor.numel() if place is None else math.prod(place.shape)
    elements = count if count <= EXACT_ELEMENTS else BLOCK_ELEMENTS
    drawn = torch.empty(elements, dtype=torch.promote_types(tensor.dtype, torch.float32), device=tensor.device)
    return repeat_(tensor, drawn.normal_(0.0, std, generator=generator).to(tensor.dtype), place)


@torch.no_grad()
def repeat_(tensor: Tensor, block: Tensor, place: Place | None = None) -> Tensor:
    """Fill a contiguous tensor with a block (elements,), over and over, in place.

    Args:
        place: of a whole that is filled so; the block is no shorter than a row of it.
    """
    if place is not None:
        row = math.prod(place.shape[1:])
        if tensor.shape[1:] != place.shape[1:]:
            return _columns_of_repeated_(tensor, block, place.offsets[0] * row + place.offsets[1], row)
        block = block.roll(-(place.offsets[0] * row % len(block)))
    for part in tensor.view(-1).split(len(block)):
        part.copy_(block[: part.numel()])
    return tensor


def _columns_of_repeated_(tensor: Tensor, block: Tensor, first: int, row: int) -> Tensor:
    """Fill a matrix with every ``row``-th run of a repeated block, from its element number ``first`` on."""
    columns = tensor.shape[1]
    runs = torch.cat([block, block[:columns]]).unfold(0, columns, 1)  # (elements + 1, columns), a view
    at_once = max(1, EXACT_ELEMENTS // columns)
    for at, part in enumerate(tensor.split(at_once)):
        numbers = torch.arange(len(part), device=tensor.device) + at * at_once
        part.copy_(runs[(first + numbers * row) % len(block)])
    return tensor
