"""What the solver may choose in a kind of layer, and within which bounds."""

from typing import Any

from annotated_types import Le

from membench.layers.spec import FreeDimension, Spec
from membench.layers.spec.quantities import MAX_NUM_KEYS

_LARGEST_WIDTH = 2**24  # of dimensions whose config states no bound


def free_dimensions(kind: type[Spec]) -> dict[str, FreeDimension]:
    """Every dimension of a kind that some budget can solve, by name."""
    return {dimension.name: dimension for dimensions in kind.FREE.values() for dimension in dimensions}


def capacity_dimensions(kind: type[Spec]) -> list[str]:
    """Dimensions that hold parameters but hardly cost FLOPs: table rows and experts."""
    widths = {dimension.name for dimension in kind.FREE.get("flops_per_token", ())}
    return [dimension.name for dimension in kind.FREE.get("params", ()) if dimension.name not in widths]


def largest(kind: type[Spec], dimension: FreeDimension) -> int:
    """The largest value of a dimension that its kind's config allows."""
    if dimension.square:
        return MAX_NUM_KEYS
    bounds = [item.le for item in kind.model_fields[dimension.name].metadata if isinstance(item, Le)]
    return int(bounds[0]) if bounds else _LARGEST_WIDTH  # type: ignore[arg-type]


def missing_dimensions(kind: type[Spec], given: dict[str, Any]) -> list[str]:
    """Dimensions without a default that ``given`` leaves to the solver."""
    free = free_dimensions(kind)
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    return [name for name in required if name in free and name not in given]


def with_placeholders(kind: type[Spec], given: dict[str, Any]) -> Spec:
    """The config of what is given, the largest value standing in for each missing dimension.

    The largest satisfies the rules between dimensions (top_k <= sub_keys), so that what is
    refused here is what was given.

    Raises:
        pydantic.ValidationError: a given value makes no sense, or a key is unknown.
    """
    free = free_dimensions(kind)
    values = {name: largest(kind, free[name]) for name in missing_dimensions(kind, given)}
    return kind.model_validate({**values, **given}, strict=True)
