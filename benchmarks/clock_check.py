"""Is the time that membench reports the time that it takes? Its clock beside an independent one on the same calls.

    python -m benchmarks.clock_check [--device cuda] [--turns N] [--json]

Ten cases of small and middling layers. On a CPU the other clock is ``torch.utils.benchmark``, on
CUDA ``triton.testing.do_bench`` (which flushes the L2 cache before each call, as membench's cold
samples do). The two take turns, so that a machine that drifts drifts for both; the ratio of a case
is the median over the turns.
"""

import argparse
import json
import os
import statistics
import sys
from itertools import count
from typing import Any

import torch

from membench.case import Case
from membench.layers.factory import build
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import DenseSpec, MemoryPlusSpec, MemorySpec, Mode, MoESpec, PeerSpec
from membench.machine.device import cache_bytes, usable_cores
from membench.machine.provenance import probe_environment, utc_now
from membench.measuring.inputs import make_inputs, pool_size
from membench.measuring.step import make_step
from membench.measuring.time import Clock, Sampling, StepCall, sample
from membench.processes.environment import measuring_environment

_SAMPLING = Sampling(min_samples=30, floor_samples=10, max_seconds=0.4, warmup_seconds=0.02)

_DENSE = DenseSpec(model_dim=512, ffn_hidden=2048, dtype="float32")
_MEMORY = MemorySpec(model_dim=512, num_keys=256**2, key_dim=256, dtype="float32")
_PLUS = MemoryPlusSpec(model_dim=512, num_keys=256**2, key_dim=256, dtype="bfloat16")
_MOE = MoESpec(model_dim=512, num_experts=16, top_k=4, expert_hidden=192, dtype="float32")
_PEER = PeerSpec(model_dim=512, num_keys=128**2, heads=4, top_k=8, key_dim=128, dtype="float32")
CASES: list[tuple[Any, Mode]] = [
    (_DENSE, "forward"),
    (_DENSE, "forward_backward"),
    (_DENSE, "train_step"),
    (_MEMORY, "forward"),
    (_MEMORY, "forward_backward"),
    (_PLUS, "forward"),
    (_PLUS, "forward_backward"),
    (_MOE, "forward"),
    (_MOE, "forward_backward"),
    (_PEER, "forward"),
]
_TOKENS = 128


def step_of(spec: Any, mode: Mode, device: str) -> StepCall:
    """The step that membench times."""
    layer = build(spec, device=device)
    optimizer = "adamw" if mode == "train_step" else None
    case = Case(arm=spec.kind, mode=mode, layer=spec, tokens=_TOKENS, optimizer=optimizer)
    inputs = make_inputs(layer, case, min(8, pool_size(case, cache_bytes(device))), device)
    update = LayerOptimizer(layer, optimizer, learning_rate=0.0) if optimizer else None
    return make_step(mode, layer, layer, inputs, torch.randn_like(inputs[0].x), update)


def other_clock_s(step: StepCall, numbers: Any, device: str) -> float:
    """Median seconds a call, by the independent clock."""
    if device == "cuda":
        from triton.testing import do_bench

        median_ms: Any = do_bench(lambda: step(next(numbers)), warmup=20, rep=200, return_mode="median")
        return median_ms / 1e3
    from torch.utils.benchmark import Timer

    timer = Timer(
        "step(next(numbers))", globals={"step": step, "numbers": numbers}, num_threads=torch.get_num_threads()
    )
    return timer.blocked_autorange(min_run_time=0.2).median


def compare_clocks(spec: Any, mode: Mode, device: str, turns: int) -> dict[str, Any]:
    """Both clocks on one case, in turn."""
    step, clock, numbers = step_of(spec, mode, device), Clock(device), count()
    own, other = [], []
    for turn in range(turns):
        measurements = [lambda: own.append(sample(clock, step, _SAMPLING).median_s)]
        measurements.append(lambda: other.append(other_clock_s(step, numbers, device)))
        for measure in measurements if turn % 2 else reversed(measurements):
            measure()
    return {
        "case": f"{spec.kind} {mode} {spec.dtype}",
        "membench_ms": 1e3 * statistics.median(own),
        "other_ms": 1e3 * statistics.median(other),
        "ratio": statistics.median(a / b for a, b in zip(own, other, strict=True)),
    }


def main() -> None:
    """Both clocks on every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--turns", type=int, default=15, help="times that each clock measures a case")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if "GOMP_SPINCOUNT" not in os.environ:
        words = [sys.executable, "-m", "benchmarks.clock_check", *sys.argv[1:]]
        os.execve(sys.executable, words, measuring_environment(min(asked.threads, len(usable_cores()))))
    threads, environment = torch.get_num_threads(), probe_environment(asked.device)
    other = "triton.testing.do_bench" if asked.device == "cuda" else "torch.utils.benchmark"
    found: dict[str, Any] = {"benchmark": "clock_check", "started": utc_now(), "threads": threads, "other_clock": other}
    found |= {"environment": environment, "cases": []}
    for spec, mode in CASES:
        found["cases"].append(compare_clocks(spec, mode, asked.device, asked.turns))
        row = found["cases"][-1]
        line = f"{row['case']:36}{row['membench_ms']:9.3f} ms{row['other_ms']:9.3f} ms{row['ratio']:8.3f}"
        print(line, file=sys.stderr if asked.json else sys.stdout, flush=True)
    if asked.json:
        print(json.dumps(found, allow_nan=False))


if __name__ == "__main__":
    main()
