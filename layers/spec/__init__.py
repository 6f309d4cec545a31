"""Typed configs and exact costs of every kind of layer and operator. No torch: planning needs only this."""

from typing import Annotated, get_args

from pydantic import Discriminator, TypeAdapter

from membench.layers.spec.base import Choice, FreeDimension, Spec, TokenSpec
from membench.layers.spec.cost import (
    MODES,
    OPTIMIZERS,
    Cost,
    MemoryNeed,
    Mode,
    Optimizer,
    StageCost,
    Step,
    has_backward,
)
from membench.layers.spec.dense import DenseSpec
from membench.layers.spec.expectation import ROUTINGS, RoutingKind
from membench.layers.spec.external import ExternalSpec
from membench.layers.spec.memory import MemoryPlusSpec, MemorySpec
from membench.layers.spec.moe import MoESpec
from membench.layers.spec.operator import OperatorSpec
from membench.layers.spec.operators import (
    ExpertRowsSpec,
    GroupedExpertsSpec,
    KeyScoresSpec,
    ProductKeyTopKSpec,
    RowOperatorSpec,
    WeightedBagSpec,
)
from membench.layers.spec.peer import PeerSpec
from membench.layers.spec.retrieval import RetrievalSpec

# The kinds there are: a layer's and an operator's config each stands in one of these, and nowhere else.
OwnLayerSpec = DenseSpec | MoESpec | MemorySpec | MemoryPlusSpec | PeerSpec
AnyOperatorSpec = WeightedBagSpec | KeyScoresSpec | ProductKeyTopKSpec | ExpertRowsSpec | GroupedExpertsSpec

AnySpec = OwnLayerSpec | ExternalSpec | AnyOperatorSpec
LayerSpec = Annotated[AnySpec, Discriminator("kind")]

KINDS: dict[str, type[Spec]] = {spec.model_fields["kind"].default: spec for spec in get_args(OwnLayerSpec)}
OPERATORS: dict[str, type[Spec]] = {spec.model_fields["kind"].default: spec for spec in get_args(AnyOperatorSpec)}

_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(LayerSpec)


def spec_from(values: dict[str, object]) -> AnySpec:
    """The typed config of ``{"kind": …, …}``.

    Raises:
        pydantic.ValidationError: a key is unknown or a value makes no sense.
    """
    return _ADAPTER.validate_python(values)


__all__ = [
    "KINDS",
    "MODES",
    "OPERATORS",
    "OPTIMIZERS",
    "ROUTINGS",
    "AnyOperatorSpec",
    "AnySpec",
    "Choice",
    "Cost",
    "DenseSpec",
    "ExpertRowsSpec",
    "ExternalSpec",
    "FreeDimension",
    "GroupedExpertsSpec",
    "KeyScoresSpec",
    "LayerSpec",
    "MemoryNeed",
    "MemoryPlusSpec",
    "MemorySpec",
    "MoESpec",
    "Mode",
    "OperatorSpec",
    "Optimizer",
    "PeerSpec",
    "ProductKeyTopKSpec",
    "RetrievalSpec",
    "RoutingKind",
    "RowOperatorSpec",
    "Spec",
    "StageCost",
    "Step",
    "TokenSpec",
    "WeightedBagSpec",
    "has_backward",
    "spec_from",
]
