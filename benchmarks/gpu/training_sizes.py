"""Training steps of ever larger tables, up to the largest that fits: a JSON line each, as soon as it is known.

python -m benchmarks.gpu.training_sizes cuda|cpu
"""

import json
import statistics
import sys

import torch

from benchmarks.memory_step_parts.largest import BATCHES, fit_random_targets
from membench.layers.factory import build
from membench.layers.spec import MemorySpec
from membench.layers.spec.quantities import format_num_keys


def steps_of(spec: MemorySpec, tokens: int, device: str) -> dict[str, object]:
    """Times and losses of the steps of one table, trained by row-wise Adagrad in the backward pass."""
    found: dict[str, object] = {"num_keys": spec.num_keys, "value_dim": spec.model_dim, "tokens": tokens}
    try:
        losses, seconds = fit_random_targets(build(spec, device=device), spec, tokens, device)
    except torch.OutOfMemoryError as error:
        return {**found, "reason": f"out of memory: {error}".splitlines()[0]}
    first, last = (statistics.mean(part) for part in (losses[:BATCHES], losses[-BATCHES:]))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    ms = 1e3 * statistics.median(seconds[BATCHES:])
    return {**found, "step_ms": ms, "first_loss": first, "last_loss": last, "peak_allocated_bytes": peak}


def main() -> None:
    """Every size, the next only when the last has fitted."""
    device = sys.argv[1]
    dim, tokens, sides = (4096, 4096, (1024, 2048, 2896, 4096)) if device == "cuda" else (64, 16, (32, 64))
    for side in sides:
        spec = MemorySpec(model_dim=dim, num_keys=side**2, key_dim=min(512, dim), dtype="bfloat16")
        found = steps_of(spec, tokens, device)
        print(json.dumps({"keys": format_num_keys(side**2), **found}, allow_nan=False), flush=True)
        if "reason" in found:
            return
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
