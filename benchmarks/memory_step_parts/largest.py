"""A table as large as most of this machine's memory, trained: its time, its memory, and that the loss falls."""

import statistics

import torch
from torch.nn import functional

from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import short_of_memory
from benchmarks.memory_step_parts.turns import timed
from membench.layers.factory import build
from membench.layers.layer import Layer, torch_dtype
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import MemorySpec
from membench.layers.spec.quantities import format_num_keys
from membench.measuring.memory import peak_bytes

BATCHES, _PASSES = 4, 6
_LEARNING_RATE = 1e-2


def fit_random_targets(layer: Layer, spec: MemorySpec, tokens: int, device: str) -> tuple[list[float], list[float]]:
    """Fits random targets of a few batches by a layer with row-wise Adagrad: the loss and the seconds of each step."""
    optimizer = LayerOptimizer(layer, "row_adagrad", 1e-3, table_learning_rate=_LEARNING_RATE)
    shape = (BATCHES, 2, tokens, spec.model_dim)
    data = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, torch_dtype(spec.dtype))
    losses: list[float] = []

    def step(number: int) -> None:
        x, target = data[number % BATCHES]
        layer.zero_gradients()
        with optimizer.fused():
            loss = functional.mse_loss(layer(x).float(), target.float())
            loss.backward()
        optimizer.step()
        losses.append(loss.item())  # waits for a device

    seconds = [timed(step)(number) for number in range(BATCHES * _PASSES)]
    return losses, seconds


def train_largest(sizes: Sizes) -> Findings:
    """The largest table's steps."""
    keys = format_num_keys(sizes.num_keys)
    question = f"train_step, {keys} keys in {sizes.dtype}: loss of the last pass over that of the first"
    if reason := short_of_memory(1.01 * sizes.table_bytes() + 2.5 * 2**30):
        return Findings([Answer(question, goal=1.0, at_most=True, reason=reason)])
    losses, seconds = fit_random_targets(build(sizes.spec()), sizes.spec(), sizes.tokens, "cpu")
    first, last = (statistics.mean(part) for part in (losses[:BATCHES], losses[-BATCHES:]))
    peak = peak_bytes("cpu", besides=0)["peak_process_bytes"] or 0
    facts = {"losses": losses, "seconds": seconds, "peak_process_bytes": peak}
    ms = {"a step": 1e3 * statistics.median(seconds[BATCHES:])}
    line = f"{keys} keys: {ms['a step']:.0f} ms a step, peak resident memory {peak / 2**30:.1f} GiB"
    answer = Answer(question, [last / first], goal=1.0, at_most=True, milliseconds=ms)
    return Findings([answer], facts, [line])
