"""Which reference each kind has."""

from membench.layers.checking.external_reference import ExternalReference
from membench.layers.checking.model_reference import BlockReference, ModelReference
from membench.layers.checking.operator_reference import (
    ExpertRowsReference,
    GroupedExpertsReference,
    KeyScoresReference,
    ProductKeyTopKReference,
    WeightedBagReference,
)
from membench.layers.checking.own_references import OWN_REFERENCES
from membench.layers.checking.sampled_reference import SampledReference
from membench.layers.layer import Layer

REFERENCES: dict[str, type[SampledReference]] = {
    **OWN_REFERENCES,
    "block": BlockReference,
    "model": ModelReference,
    "external": ExternalReference,
    "weighted_bag": WeightedBagReference,
    "key_scores": KeyScoresReference,
    "product_key_top_k": ProductKeyTopKReference,
    "expert_rows": ExpertRowsReference,
    "grouped_experts": GroupedExpertsReference,
}


def reference_of(layer: Layer) -> type[SampledReference]:
    """The reference of a layer's kind.

    Raises:
        ValueError: it has none.
    """
    kind = getattr(layer.spec, "kind", None)
    if kind not in REFERENCES:
        raise ValueError(f"no reference for a layer of kind {kind or type(layer.spec).__name__}")
    return REFERENCES[kind]
