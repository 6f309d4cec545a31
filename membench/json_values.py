"""Values out of the loosely typed parts of a result file: what is missing or of another type is unknown."""

from typing import Any

_FAR = 1e100  # beyond any count, rate or time; ratios and products of what is within stay finite


def value_at(source: Any, *keys: str) -> Any:
    """What lies at the end of nested keys; None where the way there is broken."""
    for key in keys:
        source = source.get(key) if isinstance(source, dict) else None
    return source


def mapping(source: Any, *keys: str) -> dict[str, Any]:
    """A mapping at nested keys; an empty one for anything else."""
    found = value_at(source, *keys)
    return found if isinstance(found, dict) else {}


def number(source: Any, *keys: str) -> float | None:
    """A number at nested keys, or None where there is none, or none that could be a measurement."""
    found = value_at(source, *keys)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return float(found) if -_FAR <= found <= _FAR else None


def positive(source: Any, *keys: str) -> float | None:
    """A number above 0 at nested keys, or None: what a rate or a duration must be."""
    value = number(source, *keys)
    return value if value is not None and value > 1 / _FAR else None


def text(source: Any, *keys: str) -> str | None:
    """A string at nested keys, or None."""
    found = value_at(source, *keys)
    return found if isinstance(found, str) else None
