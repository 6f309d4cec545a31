"""A PEER layer for few tokens in C++: one region of threads for all its parts."""

from typing import Any

import torch
from torch import Tensor

from membench.layers.kernels.in_turn import take_step
from membench.layers.kernels.native.retrieval_step import STAGES, Packed, form

_ARGUMENTS = form("4q")  # ``Given`` of peer_step.cpp


def peer_step(x: Tensor, *operands: Any) -> Tensor:
    """Shapes: ``layers.kernels.peer_step``. Threads share the rows of matrices, keys, heads, experts and columns."""
    *of_choice, down, up = operands
    packed, keys, top_k = Packed(x, *of_choice), of_choice[3], of_choice[8]
    chosen = packed.checked_choice(len(down))
    hidden = torch.empty(len(x) * keys.shape[0] * top_k, dtype=torch.float32)
    tables, (place,) = packed.addresses(down, up), packed.addresses(hidden)
    numbers = _ARGUMENTS.pack(*packed.numbers, *tables, chosen, place)
    take_step("peer_step", x.dtype, (*STAGES, "experts"), numbers, packed.kept)
    return packed.y
