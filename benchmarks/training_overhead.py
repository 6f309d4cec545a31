"""What a training run costs over its bare calls, and over what its products and rows need at the measured ceilings.

    python -m benchmarks.training_overhead [--steps 200] [--rounds 9] [--threads 1] [--json FILE]

The model is that of scenario ``capacity``: two blocks of width 64, whose second FFN is replaced, trained on bare facts,
117 a step at constant rates. A run and a bare loop (the same model, optimizer and batches; zero_grad, forward and
backward, clip, step, and nothing else) take turns, each from its first step, each kind in a process of its own.
``run_over_bare`` is the median over the rounds of the run's seconds, by its own clock, over the bare loop's.

``needed_ms`` is what a step's FLOPs take at the ceiling of matrix products, and its row bytes at that of random rows,
one after the other, both measured here on as many threads; ``over_needed`` is a bare step beside it.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.memory_step_parts.processes import call
from benchmarks.writing import add_json_option, heading, write_found
from membench.layers.models.model import Model
from membench.layers.spec import AttentionSpec, MemoryPlusSpec, MemorySpec, ModelSpec, MoESpec, PeerSpec, Step
from membench.layers.spec.block import FfnSpec
from membench.learning.settings import Stop, Training
from membench.learning.tasks import Facts
from membench.machine.provenance import utc_now
from membench.measuring.ceilings import matmul_ceiling, random_row_ceiling
from membench.measuring.time import Clock
from membench.training.run import Run
from membench.training.task import TaskData
from membench.training.tasks.make import task_data

WIDTH, SEQUENCES = 64, 117
_ROWS: dict[str, Any] = {"model_dim": WIDTH, "heads": 4, "top_k": 16, "key_dim": 32, "dtype": "float32"}
LAYERS: dict[str, FfnSpec | None] = {
    "dense": None,
    "memory": MemorySpec(num_keys=128**2, query_norm=True, **_ROWS),
    "memory_plus": MemoryPlusSpec(num_keys=128**2, **_ROWS),
    "peer": PeerSpec(num_keys=90**2, **_ROWS),
    "moe": MoESpec(model_dim=WIDTH, num_experts=32, expert_hidden=192, top_k=1, dtype="float32"),
}


def model_of(kind: str, vocab_size: int) -> ModelSpec:
    """The model with a kind of layer in its second block."""
    layer = LAYERS[kind]
    return ModelSpec(
        vocab_size=vocab_size,
        model_dim=WIDTH,
        num_blocks=2,
        attention=AttentionSpec(heads=4, kv_heads=4, head_dim=16),
        ffn_hidden=192,
        layer=layer,
        at=() if layer is None else (1,),
        dtype="float32",
    )


def new_run(kind: str, data: TaskData, steps: int) -> Run:
    """A run of so many steps at constant rates, evaluated once, at its end."""
    settings = Training(
        stop=Stop(steps=steps),
        sequences=SEQUENCES,
        table_learning_rate=1e-2,
        schedule="constant",
        warmup_share=0.0,
        evaluations=1,
    )
    return Run(model_of(kind, data.vocab_size), data, settings, 0, torch.device("cpu"), None, {})


def run_seconds(run: Run) -> float:
    """Of a whole run, by its own clock."""
    run.finish(lambda doing, share: None)
    return run.clock.seconds


def bare_seconds(run: Run) -> float:
    """Of the same calls without a loop around them, on batches that are there before."""
    model, optimizer, clip_norm = run.model, run.optimizer, run.settings.clip_norm
    assert clip_norm is not None
    batches = [run.data.batch(step * SEQUENCES, SEQUENCES) for step in range(int(run.settings.stop.amount))]
    placed = [(batch.tokens, batch.scored / batch.scored.sum()) for batch in batches]
    begin = time.perf_counter()
    for tokens, weights in placed:
        optimizer.zero_grad()
        loss = torch.dot(model(tokens).flatten(), weights.flatten())
        (loss if model.auxiliary_loss is None else loss + model.auxiliary_loss).backward()
        optimizer.clip_gradients_(clip_norm)
        optimizer.step()
    return time.perf_counter() - begin


def needed_ms(kind: str, data: TaskData) -> float:
    """What a step's FLOPs and row bytes take at the ceilings measured now."""
    spec, clock = model_of(kind, data.vocab_size), Clock("cpu")
    tokens = SEQUENCES * data.length
    cost = spec.cost(Step(tokens, "train_step", "row_adam", sequences=SEQUENCES))
    row_bytes = sum(stage.row_bytes_issued for stage in cost.stages)
    rows = random_row_ceiling(clock, Model(spec).random_rows)
    return 1e3 * (cost.flops / matmul_ceiling(clock, torch.float32) + row_bytes / rows)


def compare(kind: str, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """What is kept of one kind."""
    torch.set_num_threads(threads)
    data = task_data(Facts(), 0)
    needed = [needed_ms(kind, data) for _ in range(3)]
    pairs = []
    for number in range(rounds + 1):  # the first warms up
        ways = (run_seconds, bare_seconds) if number % 2 else (bare_seconds, run_seconds)
        taken = {way: way(new_run(kind, data, steps)) for way in ways}
        pairs.append((taken[run_seconds], taken[bare_seconds]))
    bare_ms = 1e3 * statistics.median(bare for _, bare in pairs[1:]) / steps
    return {
        "run_ms": 1e3 * statistics.median(run for run, _ in pairs[1:]) / steps,
        "bare_ms": bare_ms,
        "run_over_bare": statistics.median(run / bare for run, bare in pairs[1:]),
        "run_over_bare_rounds": [run / bare for run, bare in pairs[1:]],
        "needed_ms": statistics.median(needed),
        "over_needed": bare_ms / statistics.median(needed),
    }


def main() -> None:
    """Measure every kind, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    asked = parser.parse_args()
    sizes = {name: getattr(asked, name) for name in ("steps", "rounds", "threads")}
    for name, value in sizes.items():
        if value < 1:
            parser.error(f"--{name} {value}: at least 1")
    started = utc_now()
    found = {kind: call(compare, kind, *sizes.values()) for kind in LAYERS}
    for kind, of in found.items():
        needed = f"{of['over_needed']:.2f} times the {of['needed_ms']:.2f} ms that are needed"
        print(f"{kind:12} {of['run_ms']:7.2f} ms a step, run over bare {of['run_over_bare']:.4f}, {needed}")
    if asked.json is not None:
        write_found({**heading("training_overhead", started), "sizes": sizes, "layers": found}, asked.json)


if __name__ == "__main__":
    main()
