"""Other sizes of a scenario, by name: what ``scales:`` says of each, laid over the file."""

from collections.abc import Iterator, Mapping
from typing import Any

from membench.errors import UsageError, shown, suggestion

FULL = "cpu"  # the file as it stands


def at_scale(tree: Mapping[str, Any], scale: Any) -> Iterator[tuple[str, Any]]:
    """The dotted keys that a size sets, and to what.

    Raises:
        UsageError: the file has no size of this name, or does not map keys to values for it.
    """
    named = tree.get("scales", {})
    known = named if isinstance(named, dict) else {}
    if scale == FULL and scale not in known:
        return
    if not isinstance(scale, str) or scale not in known:
        raise UsageError(f"no scale is {shown(scale)}; {suggestion(scale, {FULL, *known})}", key="scale")
    changes = known[scale]
    if not isinstance(changes, dict):
        raise UsageError(f"should map keys to values, not {shown(changes)}", key=f"scales.{scale}")
    yield from changes.items()
