"""How many times longer a MoE takes than the dense layer of the same FLOPs, on this CPU or GPU.

    python -m benchmarks.moe_vs_dense

Both are timed in turn within a round, so that what else the machine does hits both alike; the
ratio is the median of the rounds' ratios. Gradients are fresh memory each time, as after
``zero_grad(set_to_none=True)``. The process starts itself again in the environment in which
membench measures (allocator, huge pages, waiting threads).
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from membench.layers.dense import Dense
from membench.layers.layer import Layer, torch_dtype
from membench.layers.moe import MoE
from membench.layers.spec import DenseSpec, MoESpec, Step
from membench.processes.environment import measuring_environment


class PlainDense(torch.nn.Module):
    """The same SwiGLU as anybody would write it: torch's own products, differentiated by autograd."""

    def __init__(self, like: Dense) -> None:
        super().__init__()
        self.gate_up, self.down = like.gate_up, like.down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, self.gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down)

    def zero_gradients(self) -> None:
        self.zero_grad(set_to_none=True)


def dense_of_equal_flops(moe: MoESpec, tokens: int) -> DenseSpec:
    """The dense layer whose hidden width brings its FLOPs nearest."""
    flops = moe.cost(Step(tokens)).flops
    one = DenseSpec(model_dim=moe.model_dim, ffn_hidden=1, dtype=moe.dtype)
    return one.model_copy(update={"ffn_hidden": round(flops / one.cost(Step(tokens)).flops)})


def forward(layer: Layer | PlainDense, x: torch.Tensor, dy: torch.Tensor) -> None:
    del dy
    with torch.no_grad():
        layer(x)


def forward_backward(layer: Layer | PlainDense, x: torch.Tensor, dy: torch.Tensor) -> None:
    layer.zero_gradients()
    x.grad = None
    layer(x).backward(dy)


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Wall time of one run, the device idle before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ratio(above: list[float], below: list[float]) -> float:
    """The median over rounds of one layer's time over another's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    """Time, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "experts": 64, "top-k": 8, "expert-hidden": 192, "dim": 512, "tokens": 512, "rounds": 25,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    moe_spec = MoESpec(
        model_dim=options.dim,
        num_experts=options.experts,
        expert_hidden=options.expert_hidden,
        top_k=options.top_k,
        dtype=options.dtype,
    )
    dense_spec = dense_of_equal_flops(moe_spec, options.tokens)
    dense = Dense(dense_spec, device=options.device)
    layers = {"moe": MoE(moe_spec, device=options.device), "dense": dense, "plain_dense": PlainDense(dense)}
    shape = (options.tokens, options.dim)
    x = torch.randn(shape, device=options.device, dtype=torch_dtype(options.dtype)).requires_grad_()
    dy = torch.randn_like(x)

    specs = {"moe": moe_spec.model_dump(), "dense": dense_spec.model_dump()}
    result: dict[str, object] = {"benchmark": "moe_vs_dense", **specs, "tokens": shape[0]}
    for step in (forward, forward_backward):
        samples: dict[str, list[float]] = {name: [] for name in layers}
        for measured in range(-3, options.rounds):
            for name, layer in layers.items():
                taken = seconds(lambda step=step, layer=layer: step(layer, x, dy), options.device)
                if measured >= 0:
                    samples[name].append(taken)
        result[step.__name__] = {
            "ratio": ratio(samples["moe"], samples["dense"]),
            "ratio_to_plain_dense": ratio(samples["moe"], samples["plain_dense"]),
            **{f"{name}_ms_p50": 1e3 * statistics.median(s) for name, s in samples.items()},
            **{f"{name}_ms_min": 1e3 * min(s) for name, s in samples.items()},
        }
    if options.json:
        print(json.dumps(result, allow_nan=False))
        return
    print(f"dense of hidden width {dense_spec.ffn_hidden}; plain: torch's own products and autograd")
    print(f"{'':18}{'moe ms':>10}{'dense ms':>10}{'ratio':>8}{'plain ms':>10}{'ratio':>8}")
    for step in (forward, forward_backward):
        row = result[step.__name__]
        assert isinstance(row, dict)
        own = f"{row['moe_ms_p50']:10.2f}{row['dense_ms_p50']:10.2f}{row['ratio']:8.2f}"
        print(f"{step.__name__:18}{own}{row['plain_dense_ms_p50']:10.2f}{row['ratio_to_plain_dense']:8.2f}")


if __name__ == "__main__":
    environment = measuring_environment()
    if "GLIBC_TUNABLES" not in os.environ:  # read when a process begins
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.moe_vs_dense", *sys.argv[1:]], environment)
    main()
