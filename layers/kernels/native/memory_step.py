"""A memory layer for few tokens in C++: one region of threads for all its parts."""

from typing import Any

from torch import Tensor

from membench.layers.kernels.in_turn import take_step
from membench.layers.kernels.native.bags import TABLES
from membench.layers.kernels.native.retrieval_step import STAGES, Packed, form

_ARGUMENTS = form("9q")  # ``Given`` of memory_step.cpp


def memory_step(x: Tensor, *operands: Any) -> Tensor:
    """Shapes: ``layers.kernels.memory_step``. Threads share the rows of matrices, keys, heads, and columns of bags."""
    *of_choice, table, row_scales, gate, output = operands
    packed, width = Packed(x, *of_choice), table.shape[1]
    chosen = packed.checked_choice(len(table))
    summed, gated = (None if each is None else x.new_empty(len(x), width) for each in (output, gate))
    read = packed.addresses(table, row_scales), packed.addresses(gate, output, summed, gated)
    numbers = _ARGUMENTS.pack(*packed.numbers, width, *read[0], chosen, *read[1], TABLES[table.dtype])
    stages = (*STAGES, "bag", *(("gate",) if gate is not None else ()), *(("output",) if output is not None else ()))
    take_step("memory_step", x.dtype, stages, numbers, packed.kept)
    return packed.y
