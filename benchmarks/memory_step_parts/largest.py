"""A table as large as most of this machine's memory, trained: its time, its memory, and that the loss falls."""

import statistics

import torch
from torch.nn import functional

from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import short_of_memory
from benchmarks.memory_step_parts.turns import timed
from membench.layers.factory import build
from membench.layers.layer import torch_dtype
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec.quantities import format_num_keys
from membench.measuring.memory import peak_bytes

_BATCHES, _PASSES = 4, 6
_LEARNING_RATE = 1e-2


def train_largest(sizes: Sizes) -> Findings:
    """Fits random targets of a few batches by a layer with row-wise Adagrad."""
    keys = format_num_keys(sizes.num_keys)
    question = f"train_step, {keys} keys in {sizes.dtype}: loss of the last pass over that of the first"
    if reason := short_of_memory(1.01 * sizes.table_bytes() + 2.5 * 2**30):
        return Findings([Answer(question, goal=1.0, at_most=True, reason=reason)])
    layer = build(sizes.spec())
    optimizer = LayerOptimizer(layer, "row_adagrad", 1e-3, table_learning_rate=_LEARNING_RATE)
    shape = (_BATCHES, 2, sizes.tokens, sizes.model_dim)
    data = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch_dtype(sizes.dtype))
    losses: list[float] = []

    def step(number: int) -> None:
        x, target = data[number % _BATCHES]
        layer.zero_gradients()
        with optimizer.fused():
            loss = functional.mse_loss(layer(x).float(), target.float())
            loss.backward()
        optimizer.step()
        losses.append(loss.item())

    seconds = [timed(step)(number) for number in range(_BATCHES * _PASSES)]
    first, last = (statistics.mean(part) for part in (losses[:_BATCHES], losses[-_BATCHES:]))
    peak = peak_bytes("cpu", besides=0)["peak_process_bytes"] or 0
    facts = {"losses": losses, "seconds": seconds, "peak_process_bytes": peak}
    ms = {"a step": 1e3 * statistics.median(seconds[_BATCHES:])}
    line = f"{keys} keys: {ms['a step']:.0f} ms a step, peak resident memory {peak / 2**30:.1f} GiB"
    answer = Answer(question, [last / first], goal=1.0, at_most=True, milliseconds=ms)
    return Findings([answer], facts, [line])
