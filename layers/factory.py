"""From a spec to its torch module."""

from typing import Any

import torch

from membench.layers.external import External
from membench.layers.layer import Layer
from membench.layers.models.block import Block
from membench.layers.models.model import Model
from membench.layers.operators.experts import GroupedExperts
from membench.layers.operators.retrieval import KeyScores, ProductKeyTopK
from membench.layers.operators.rows import ExpertRows, WeightedBag
from membench.layers.own_layers import OWN_LAYERS
from membench.layers.parallel.exchange import Exchange
from membench.layers.spec import AnySpec
from membench.layers.tables.value_table import ValueTable

# The module of each kind, built as Module(spec, ranks, device=…, generator=…).
MODULES: dict[str, type[Layer]] = {
    **OWN_LAYERS,
    "block": Block,
    "model": Model,
    "external": External,
    "weighted_bag": WeightedBag,
    "key_scores": KeyScores,
    "product_key_top_k": ProductKeyTopK,
    "expert_rows": ExpertRows,
    "grouped_experts": GroupedExperts,
}


def build(
    spec: AnySpec,
    *,
    ranks: int | Exchange = 1,
    device: torch.device | str = "cpu",
    seed: int = 0,
    table: ValueTable | None = None,
) -> Layer:
    """The module of a spec, its weights drawn from ``seed``.

    Args:
        ranks: P; the module then holds and computes one rank's share, and what others send is given to each call
            (``Routing.remote``). Or the exchange with the other ranks, each of which builds the same.
        table: the pool of a memory layer that shares one with others.

    Raises:
        ValueError: the layer cannot be split over ``ranks``, or ``table`` does not fit it.
    """
    module = MODULES[spec.kind]
    options: dict[str, Any] = {"device": device, "generator": torch.Generator(device=device).manual_seed(seed)}
    if table is not None:
        if not module.SHARES_TABLE:
            raise ValueError(f"only memory layers take a shared table, not {spec.kind}")
        options["table"] = table
    return module(spec, ranks, **options)


def origin(spec: AnySpec) -> str:
    """The file that what a spec names is imported from."""
    return MODULES[spec.kind].origin(spec)
