"""A few forward calls of the weighted bag for a profiler of hardware counters, and the bytes that they should move.

    ncu --profile-from-start off … python -m benchmarks.gpu.bag_bytes FILE

Only the calls lie between the profiler's start and stop; FILE says what ``bytes_dram_expected`` is for them.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from membench.case import Case, RoutingConfig
from membench.layers.factory import build
from membench.layers.spec import Step, WeightedBagSpec
from membench.machine.device import cache_bytes
from membench.measuring.inputs import make_inputs
from membench.measuring.traffic import count_traffic

_CALLS = 3


def expected(case: Case, layer: Any, inputs: list[Any], device: str) -> float:
    """``bytes_dram_expected`` of one call, of the rows that these inputs touch."""
    unique = count_traffic(layer, inputs).unique_rows
    step = Step(case.tokens, unique_rows=unique, cache_bytes=cache_bytes(device) or 0.0)
    return layer.cost(step)[0].bytes_dram_expected


def main() -> None:
    """Calls the bag on new inputs each time, so that no row waits in a cache."""
    spec = WeightedBagSpec(model_dim=1024, num_keys=2048**2, dtype="bfloat16")
    case = Case(arm="bag", level="op", mode="forward", layer=spec, tokens=4096, routing=RoutingConfig(kind="uniform"))
    layer = build(spec, device="cuda")
    first, *rest = inputs = make_inputs(layer, case, 1 + _CALLS, "cuda")
    with torch.no_grad():
        layer(first.x, first.routing)  # compiles
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        for item in rest:
            layer(item.x, item.routing)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    found = {"calls": _CALLS, "bytes_dram_expected": _CALLS * expected(case, layer, inputs[1:], "cuda")}
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
