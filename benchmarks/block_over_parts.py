"""What a block's training step costs beside those of its parts, each trained as a layer by itself.

    python -m benchmarks.block_over_parts [--preset 134m] [--sequences 2] [--prompt 256] [--rounds 25] [--json FILE]

The parts are attention, the two norms, and the layer in the place of the FFN: forward, backward to the input and to all
weights, and the optimizer. All take turns within a round, each kind of layer in a process of its own; the ratio is the
median over the rounds of the block's time over the sum of its parts' times. What a block does besides, two sums and
their gradients, is in no part.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.memory_step_parts.processes import call
from benchmarks.memory_step_parts.turns import take_turns, timed
from benchmarks.writing import add_json_option, heading, write_found
from membench.layers.factory import build
from membench.layers.layer import Layer, Routing
from membench.layers.models.block import Block
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import (
    PRESETS,
    DenseSpec,
    MemoryPlusSpec,
    ModelShape,
    MoESpec,
    OwnLayerSpec,
    PeerSpec,
    Step,
)
from membench.machine.provenance import utc_now
from membench.measuring.inputs import Input
from membench.measuring.step import make_step
from membench.measuring.time import StepCall

OPTIMIZER = "row_adagrad"
_INPUTS = 4
LAYERS: dict[str, Callable[[ModelShape], OwnLayerSpec]] = {
    "dense": lambda shape: DenseSpec(model_dim=shape.model_dim, ffn_hidden=shape.ffn_hidden, dtype="float32"),
    "moe": lambda shape: MoESpec(
        model_dim=shape.model_dim, num_experts=8, expert_hidden=shape.ffn_hidden // 2, top_k=2, dtype="float32"
    ),
    "memory_plus": lambda shape: MemoryPlusSpec(
        model_dim=shape.model_dim, num_keys=2**16, heads=4, top_k=16, key_dim=256, dtype="float32"
    ),
    "peer": lambda shape: PeerSpec(
        model_dim=shape.model_dim, num_keys=2**16, heads=4, top_k=16, key_dim=256, dtype="float32"
    ),
}


class AttentionAlone(Layer):
    """A block's attention, (B, d) to (B, d)."""

    def __init__(self, block: Block) -> None:
        super().__init__(block.spec)
        self.attention, self.sequences = block.attention, block.sequences

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        del routing
        return self.attention(x.view(self.sequences, -1, x.shape[-1])).view_as(x)


class NormsAlone(Layer):
    """A block's two norms, one after the other."""

    spec: Any

    def __init__(self, block: Block) -> None:
        super().__init__(block.spec)
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        del routing
        for scale in (self.attention_norm, self.ffn_norm):
            x = functional.rms_norm(x, x.shape[-1:], scale, self.spec.norm_eps)
        return x


def train_step(layer: Layer, inputs: list[Tensor]) -> StepCall:
    """As a case of mode ``train_step`` is timed."""
    layer.train()
    upstream = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    optimizer = LayerOptimizer(layer, OPTIMIZER, learning_rate=0.0)
    return make_step("train_step", layer, layer, [Input(x, None) for x in inputs], upstream, optimizer)


def block_and_parts(spec: OwnLayerSpec, shape: ModelShape, sequences: int, prompt: int) -> dict[str, StepCall]:
    """Steps of a block, and of the parts of another just like it."""
    blocks = [build(shape.block_around(spec)) for _ in range(2)]
    for block in blocks:
        block.make_ready(Step(sequences * prompt, mode="train_step", sequences=sequences, optimizer=OPTIMIZER))
    whole, taken_apart = blocks
    assert isinstance(taken_apart, Block)
    generator = torch.Generator().manual_seed(0)
    inputs = [whole.draw_tokens(sequences * prompt, generator) for _ in range(_INPUTS)]
    parts = {"attention": AttentionAlone(taken_apart), "norms": NormsAlone(taken_apart), "ffn": taken_apart.ffn}
    return {name: train_step(layer, inputs) for name, layer in {"block": whole, **parts}.items()}


def compare(kind: str, preset: str, sequences: int, prompt: int, rounds: int) -> dict[str, Any]:
    """What is kept of one kind of layer: milliseconds of each, and the ratio."""
    shape = PRESETS[preset]
    steps = block_and_parts(LAYERS[kind](shape), shape, sequences, prompt)
    seconds = take_turns({name: timed(step) for name, step in steps.items()}, rounds)
    block = seconds.pop("block")
    sums = [sum(of_round) for of_round in zip(*seconds.values(), strict=True)]
    return {
        "block_ms": 1e3 * statistics.median(block),
        **{f"{name}_ms": 1e3 * statistics.median(times) for name, times in seconds.items()},
        "block_over_parts": statistics.median(one / parts for one, parts in zip(block, sums, strict=True)),
    }


def main() -> None:
    """Measure every kind, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="134m")
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=25)
    add_json_option(parser)
    asked = parser.parse_args()
    for name in ("sequences", "prompt", "rounds"):
        if getattr(asked, name) < 1:
            parser.error(f"--{name} {getattr(asked, name)}: at least 1")
    started, sizes = utc_now(), (asked.preset, asked.sequences, asked.prompt, asked.rounds)
    found = {kind: call(compare, kind, *sizes) for kind in LAYERS}
    for kind, times in found.items():
        parts = " + ".join(f"{name} {times[f'{name}_ms']:.2f}" for name in ("attention", "norms", "ffn"))
        print(f"{kind:12} {times['block_ms']:8.2f} ms, parts {parts} ms, ratio {times['block_over_parts']:.3f}")
    if asked.json is not None:
        content = {
            **heading("block_over_parts", started),
            "sizes": dict(zip(("preset", "sequences", "prompt", "rounds"), sizes, strict=True)),
            "optimizer": OPTIMIZER,
            "layers": found,
        }
        write_found(content, asked.json)


if __name__ == "__main__":
    main()
