"""The steps whose launches are counted: of any layer, and of one of each kind at sizes of their own."""

from typing import Any

import torch

from membench.layers.factory import AnySpec
from membench.layers.layer import Layer, Routing
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec import Mode, Optimizer, spec_from
from membench.measuring.inputs import Input
from membench.measuring.step import make_step
from membench.profiler.launches.tracing import Launched, Stages, launches_of, layer_without_values, on_hopper
from membench.profiler.stage_times import followed, observed

MODES: tuple[Mode, ...] = ("forward", "forward_backward", "train_step")
TOKENS, _MODEL_DIM = 16384, 1024
_ROWS: dict[str, Any] = {"num_keys": 1024**2, "heads": 4, "top_k": 32, "key_dim": 512}
_SIZES: dict[str, dict[str, Any]] = {
    "memory": _ROWS,
    "memory_plus": _ROWS,
    "peer": {**_ROWS, "heads": 8, "top_k": 16},
    "moe": {"num_experts": 64, "expert_hidden": 512, "top_k": 8},
    "dense": {"ffn_hidden": 4096},
}
KINDS = tuple(_SIZES)


def spec_of(kind: str) -> AnySpec:
    """One of ``KINDS`` at its sizes."""
    return spec_from({"kind": kind, "model_dim": _MODEL_DIM, "dtype": "bfloat16", **_SIZES[kind]})


def step_launches(kind: str, mode: Mode) -> list[Launched]:
    """Those of a step of one of ``KINDS`` in one of ``MODES``; rows are trained by ``row_adam`` in the backward pass.

    Raises:
        HostWaits: the host would wait for the device.
    """
    return launches_of_step(spec_of(kind), mode, TOKENS, "row_adam")


def launches_of_step(
    spec: AnySpec,
    mode: Mode,
    tokens: int,
    optimizer: Optimizer | None = None,
    *,
    zipf_exponent: float = 0.0,
    captured: bool = False,
    imposed: bool = False,
    before: int = 1,
) -> list[Launched]:
    """Those of a step as it is measured, on so many tokens (B, d).

    Args:
        optimizer: of mode ``train_step``, which needs one.
        zipf_exponent: as for ``launches_of``.
        captured: as a CUDA graph would hold it; else eager.
        imposed: which rows or experts a token uses is given; else the layer chooses them.
        before: steps that are not counted. The first sets up what is made once.

    Raises:
        HostWaits: the host would wait for the device.
        Uncounted: nobody has said what a launch moves.
    """
    with on_hopper():
        layer, stages = layer_without_values(spec), Stages()
        x = torch.empty(tokens, spec.model_dim, dtype=getattr(torch, spec.dtype), device="meta")  # type: ignore[union-attr]
        trained = LayerOptimizer(layer, optimizer) if mode == "train_step" and optimizer else None
        if captured and trained is not None:
            trained.count_on_device()
        upstream, routing = layer.output_like(x), _imposed(layer, tokens) if imposed else None
        step = make_step(mode, followed(layer, stages), layer, [Input(x, routing)], upstream, trained)
        watched = observed(step, stages)
        for _ in range(before):
            launches_of(lambda: watched(0), stages)
        return launches_of(lambda: watched(0), stages, zipf_exponent=zipf_exponent)


def _imposed(layer: Layer, tokens: int) -> Routing | None:
    """A routing without values; None of a layer that chooses nothing."""
    choice = layer.spec.choice_of_token
    return choice and Routing(torch.empty(tokens, *choice.shape, dtype=torch.int64, device="meta"))
