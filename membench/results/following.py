"""Which keys of an arm follow those that all arms share: where each preset of a model has its own number of experts.

They tell no two cases of one point apart, so they belong to no arm's name.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any


def own_key(arm: str, key: str) -> str | None:
    """A swept key as the arm has it, None where it is not the arm's alone."""
    prefix = f"arms.{arm}."
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def following(arm: str, points: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The arm's own keys that vary, but have one value wherever all that is shared is the same.

    Args:
        points: the swept keys' values of all its cases.
    """
    values: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for point in points:
        shared = repr(sorted((key, repr(value)) for key, value in point.items() if not key.startswith("arms.")))
        for key, value in point.items():
            if own_key(arm, key) is not None:
                values[key][shared].add(repr(value))
    return frozenset(
        key
        for key, at in values.items()
        if all(len(found) == 1 for found in at.values()) and len(set.union(*at.values())) > 1
    )
