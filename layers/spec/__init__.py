"""Typed configs and exact costs of every kind of layer and operator. No torch: planning needs only this."""

from typing import Annotated, get_args

from pydantic import Discriminator, TypeAdapter

from membench.layers.spec.attention import AttentionSpec
from membench.layers.spec.base import Choice, FreeDimension, Spec, TokenSpec
from membench.layers.spec.block import BlockSpec, FfnSpec, OwnLayerSpec
from membench.layers.spec.collective import COLLECTIVES, Collective, CollectiveKind, collectives, sent_by_kind
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
from membench.layers.spec.layout import SHARED_BY, Layout, SharedBy
from membench.layers.spec.memory import MemoryPlusSpec, MemorySpec
from membench.layers.spec.model import ModelSpec, Pool
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
from membench.layers.spec.shapes import PRESETS, At, ModelShape, Spaced

# The kinds there are: a layer's (OwnLayerSpec), an operator's and a whole's config each stands in one of these, and
# nowhere else.
AnyOperatorSpec = WeightedBagSpec | KeyScoresSpec | ProductKeyTopKSpec | ExpertRowsSpec | GroupedExpertsSpec

WholeSpec = BlockSpec | ModelSpec

AnySpec = OwnLayerSpec | ExternalSpec | AnyOperatorSpec | WholeSpec
LayerSpec = Annotated[AnySpec, Discriminator("kind")]

KINDS: dict[str, type[Spec]] = {spec.model_fields["kind"].default: spec for spec in get_args(OwnLayerSpec)}
OPERATORS: dict[str, type[Spec]] = {spec.model_fields["kind"].default: spec for spec in get_args(AnyOperatorSpec)}
WHOLES: dict[str, type[Spec]] = {spec.model_fields["kind"].default: spec for spec in get_args(WholeSpec)}

_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(LayerSpec)


def spec_from(values: dict[str, object]) -> AnySpec:
    """The typed config of ``{"kind": …, …}``.

    Raises:
        pydantic.ValidationError: a key is unknown or a value makes no sense.
    """
    return _ADAPTER.validate_python(values)


__all__ = [
    "COLLECTIVES",
    "KINDS",
    "MODES",
    "OPERATORS",
    "OPTIMIZERS",
    "PRESETS",
    "ROUTINGS",
    "SHARED_BY",
    "WHOLES",
    "AnyOperatorSpec",
    "AnySpec",
    "At",
    "AttentionSpec",
    "BlockSpec",
    "Choice",
    "Collective",
    "CollectiveKind",
    "Cost",
    "DenseSpec",
    "ExpertRowsSpec",
    "ExternalSpec",
    "FfnSpec",
    "FreeDimension",
    "GroupedExpertsSpec",
    "KeyScoresSpec",
    "LayerSpec",
    "Layout",
    "MemoryNeed",
    "MemoryPlusSpec",
    "MemorySpec",
    "MoESpec",
    "Mode",
    "ModelShape",
    "ModelSpec",
    "OperatorSpec",
    "Optimizer",
    "OwnLayerSpec",
    "PeerSpec",
    "Pool",
    "ProductKeyTopKSpec",
    "RetrievalSpec",
    "RoutingKind",
    "RowOperatorSpec",
    "SharedBy",
    "Spaced",
    "Spec",
    "StageCost",
    "Step",
    "TokenSpec",
    "WeightedBagSpec",
    "WholeSpec",
    "collectives",
    "has_backward",
    "sent_by_kind",
    "spec_from",
]
