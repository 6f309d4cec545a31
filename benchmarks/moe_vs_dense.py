"""How many times longer a MoE takes than the dense layer of the same FLOPs, on this CPU or GPU.

    THP_MEM_ALLOC_ENABLE=1 OMP_WAIT_POLICY=passive python -m benchmarks.moe_vs_dense

Both are timed in turn within a round, so that what else the machine does hits both alike; the
ratio is the median of the rounds' ratios. Gradients are fresh memory each time, as after
``zero_grad(set_to_none=True)``. ``THP_MEM_ALLOC_ENABLE=1`` gives torch huge pages; with
``OMP_WAIT_POLICY=passive`` OpenMP's idle threads leave the cores to the experts'.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from layers.dense import Dense
from layers.layer import Layer, torch_dtype
from layers.moe import MoE
from layers.spec import DenseSpec, MoESpec


def dense_of_equal_flops(moe: MoESpec, tokens: int) -> DenseSpec:
    """The dense layer whose hidden width brings its FLOPs nearest."""
    flops = moe.cost(tokens).flops
    one = DenseSpec(model_dim=moe.model_dim, ffn_hidden=1, dtype=moe.dtype)
    return one.with_dimensions(ffn_hidden=round(flops / one.cost(tokens).flops))


def forward(layer: Layer, x: torch.Tensor, dy: torch.Tensor) -> None:
    del dy
    with torch.no_grad():
        layer(x)


def forward_backward(layer: Layer, x: torch.Tensor, dy: torch.Tensor) -> None:
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


def main() -> None:
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
    layers = {
        "moe": MoE(moe_spec, device=options.device),
        "dense": Dense(dense_spec, device=options.device),
    }
    shape = (options.tokens, options.dim)
    x = torch.randn(shape, device=options.device, dtype=torch_dtype(options.dtype)).requires_grad_()
    dy = torch.randn_like(x)

    result: dict[str, object] = {"moe": moe_spec.model_dump(), "dense": dense_spec.model_dump(), "tokens": shape[0]}
    for step in (forward, forward_backward):
        samples: dict[str, list[float]] = {name: [] for name in layers}
        for measured in range(-3, options.rounds):
            for name, layer in layers.items():
                taken = seconds(lambda step=step, layer=layer: step(layer, x, dy), options.device)
                if measured >= 0:
                    samples[name].append(taken)
        result[step.__name__] = {
            "ratio": statistics.median(m / d for m, d in zip(samples["moe"], samples["dense"], strict=True)),
            **{f"{name}_ms_p50": 1e3 * statistics.median(s) for name, s in samples.items()},
            **{f"{name}_ms_min": 1e3 * min(s) for name, s in samples.items()},
        }
    if options.json:
        print(json.dumps(result, allow_nan=False))
        return
    print(f"{'':18}{'dense ms':>10}{'moe ms':>10}{'ratio':>8}   dense of hidden width {dense_spec.ffn_hidden}")
    for step in (forward, forward_backward):
        row = result[step.__name__]
        assert isinstance(row, dict)
        print(f"{step.__name__:18}{row['dense_ms_p50']:10.2f}{row['moe_ms_p50']:10.2f}{row['ratio']:8.2f}")


if __name__ == "__main__":
    main()
