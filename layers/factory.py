"""From a spec to its torch module."""

import torch

from membench.layers.dense import Dense
from membench.layers.external import External
from membench.layers.layer import Layer
from membench.layers.memory import Memory
from membench.layers.moe import MoE
from membench.layers.operators.experts import GroupedExperts
from membench.layers.operators.operator import Operator
from membench.layers.operators.retrieval import KeyScores, ProductKeyTopK
from membench.layers.operators.rows import ExpertRows, WeightedBag
from membench.layers.peer import Peer
from membench.layers.spec import (
    AnyOperatorSpec,
    AnySpec,
    DenseSpec,
    ExpertRowsSpec,
    ExternalSpec,
    GroupedExpertsSpec,
    KeyScoresSpec,
    MemorySpec,
    MoESpec,
    PeerSpec,
    ProductKeyTopKSpec,
    WeightedBagSpec,
)
from membench.layers.tables.value_table import ValueTable


def build(
    spec: AnySpec,
    *,
    ranks: int = 1,
    device: torch.device | str = "cpu",
    seed: int = 0,
    table: ValueTable | None = None,
) -> Layer:
    """The module of a spec, its weights drawn from ``seed``.

    Args:
        ranks: P; the module then holds and computes one rank's share (see ``Routing``).
        table: the pool of a memory layer that shares one with others.

    Raises:
        ValueError: the layer cannot be split over ``ranks``, or ``table`` does not fit it.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    if table is not None and not isinstance(spec, MemorySpec):
        raise ValueError(f"only memory layers take a shared table, not {spec.kind}")
    match spec:
        case DenseSpec():
            return Dense(spec, ranks, device=device, generator=generator)
        case MoESpec():
            return MoE(spec, ranks, device=device, generator=generator)
        case MemorySpec():
            return Memory(spec, ranks, table=table, device=device, generator=generator)
        case PeerSpec():
            return Peer(spec, ranks, device=device, generator=generator)
        case ExternalSpec():
            return External(spec, device=device, seed=seed)
        case _:
            if error := spec.split_error(ranks):
                raise ValueError(error)
            return _operator(spec, device, generator)


def _operator(spec: AnyOperatorSpec, device: torch.device | str, generator: torch.Generator) -> Operator:
    match spec:
        case WeightedBagSpec():
            return WeightedBag(spec, device=device, generator=generator)
        case KeyScoresSpec():
            return KeyScores(spec, device=device, generator=generator)
        case ProductKeyTopKSpec():
            return ProductKeyTopK(spec, device=device)
        case ExpertRowsSpec():
            return ExpertRows(spec, device=device, generator=generator)
        case GroupedExpertsSpec():
            return GroupedExperts(spec, device=device, generator=generator)
