"""A part of a model, timed with weights as cold as they are there: copies of it take turns.

In a model all other blocks come between two uses of a block's weights, and no cache holds these that long. Measured by
itself, a block that fits the last-level cache would find its weights there. So it has twins, as many as it takes
until a round of them goes past four times the cache: a call, then one of the next, each with weights, gradients,
optimizer state and KV cache of its own. To write over the caches between calls would be simpler and no use: it
also throws out the interpreter, which a model keeps warm. Tables are shared; inputs rotate past the caches over them.

On CUDA the L2 cache is flushed before each sample, and nothing of this is needed.
"""

import copy
import math

import torch

from membench.layers.layer import Layer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.machine.device import available_memory_bytes
from membench.measuring.inputs import PAST_CACHES
from membench.measuring.memory import tensor_bytes
from membench.measuring.time import StepCall

_SHARE_OF_MEMORY = 0.5  # of what is free, for twins
_MOST = 63  # and the first: a model of more blocks is rare, and of smaller ones lies in the caches itself


def reused_bytes(layer: Layer, optimizer: LayerOptimizer | None, *, backward: bool) -> int:
    """What every call reads or writes again: all but tables and inputs."""
    of_tables = {id(part) for table in layer.tables() for part in table.parameters()}
    weights = tensor_bytes(p for p in layer.parameters() if id(p) not in of_tables)
    state = 0 if optimizer is None else tensor_bytes(optimizer.matrix_state_tensors())
    return weights * (2 if backward else 1) + state + layer.kv_cache_bytes


def twins_wanted(bytes_each: int, cache_bytes: int) -> int:
    """How many, beside the first: fewer where memory is short, and none of what is large enough alone."""
    wanted = min(_MOST, math.ceil(PAST_CACHES * cache_bytes / bytes_each) - 1)
    free = available_memory_bytes()
    return wanted if free is None else min(wanted, int(_SHARE_OF_MEMORY * free / bytes_each))


@torch.no_grad()
def twin_of(layer: Layer) -> Layer:
    """A copy with the same tables."""
    return copy.deepcopy(layer, {id(table): table for table in layer.tables()})


def taking_turns(steps: list[StepCall]) -> StepCall:
    """Call number i is made by step i mod n. Each is called once before, which makes its optimizer's state."""
    for number, step in enumerate(steps):
        step(number)
    return lambda i: steps[i % len(steps)](i)


def note(twins: int) -> str:
    """What a reader of the times should know."""
    return f"weights as cold as in a model: {twins + 1} copies take turns"
