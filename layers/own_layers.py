"""The modules of our own kinds of layers, each built as Module(spec, ranks, device=…, generator=…)."""

from typing import Any

import torch

from membench.layers.dense import Dense
from membench.layers.layer import Layer
from membench.layers.memory import Memory
from membench.layers.moe import MoE
from membench.layers.parallel.exchange import Exchange
from membench.layers.peer import Peer
from membench.layers.spec import OwnLayerSpec
from membench.layers.tables.value_table import ValueTable

OWN_LAYERS: dict[str, type[Layer]] = {
    "dense": Dense,
    "moe": MoE,
    "memory": Memory,
    "memory_plus": Memory,
    "peer": Peer,
}


def own_layer(
    spec: OwnLayerSpec,
    ranks: int | Exchange,
    *,
    device: torch.device | str,
    generator: torch.Generator | None,
    table: ValueTable | None = None,
) -> Layer:
    """The module of a layer's spec; ``table`` is that of another memory layer, which both then read.

    Raises:
        ValueError: the layer cannot be split over ``ranks``, or ``table`` does not fit it.
    """
    options: dict[str, Any] = {"device": device, "generator": generator}
    if table is not None:
        options["table"] = table
    return OWN_LAYERS[spec.kind](spec, ranks, **options)
