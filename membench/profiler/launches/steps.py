"""The steps whose launches are counted: one layer of each kind, forward, with its backward pass, and trained."""

from collections.abc import Callable
from typing import Any

import torch

from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import spec_from
from membench.profiler.launches.tracing import Launched, launches_of, layer_without_values, on_hopper

MODES = ("forward", "forward_backward", "train_step")
_TOKENS, _MODEL_DIM = 16384, 1024
_ROWS: dict[str, Any] = {"num_keys": 1024**2, "heads": 4, "top_k": 32, "key_dim": 512}
_SIZES: dict[str, dict[str, Any]] = {
    "memory": _ROWS,
    "memory_plus": _ROWS,
    "peer": {**_ROWS, "heads": 8, "top_k": 16},
    "moe": {"num_experts": 64, "expert_hidden": 512, "top_k": 8},
    "dense": {"ffn_hidden": 4096},
}
KINDS = tuple(_SIZES)


def step_launches(kind: str, mode: str) -> list[Launched]:
    """Those of a step of one of ``KINDS`` in one of ``MODES``; rows are trained by ``row_adam`` in the backward pass.

    A step before it, which is not counted, sets up what is made once.

    Raises:
        HostWaits: the host would wait for the device.
    """
    spec = spec_from({"kind": kind, "model_dim": _MODEL_DIM, "dtype": "bfloat16", **_SIZES[kind]})
    with on_hopper():
        layer = layer_without_values(spec)
        x = torch.empty(_TOKENS, _MODEL_DIM, dtype=torch.bfloat16, device="meta", requires_grad=True)
        upstream = torch.empty(_TOKENS, _MODEL_DIM, dtype=torch.bfloat16, device="meta")
        optimizer = LayerOptimizer(layer, "row_adam")

        def forward() -> None:
            with torch.no_grad():
                layer(x)

        def forward_backward() -> None:
            optimizer.zero_grad()
            x.grad = None
            layer(x).backward(upstream)

        def train_step() -> None:
            optimizer.zero_grad()
            x.grad = None
            with optimizer.fused():
                layer(x).backward(upstream)
            optimizer.step()

        steps: dict[str, Callable[[], None]] = dict(zip(MODES, (forward, forward_backward, train_step), strict=True))
        launches_of(steps[mode])
        return launches_of(steps[mode])
