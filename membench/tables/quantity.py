"""A quantity of the registry as a column of a table."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from membench.layers.spec.quantities import format_quantity
from membench.results.columns import QUANTITIES, Written
from membench.tables.numbers import (
    bytes_shown,
    error,
    giga,
    interval,
    percent,
    places,
    ratio,
    share,
    shares,
    short,
    three,
)
from membench.tables.table import Column

_WRITTEN: dict[Written, Callable[[Any], str]] = {
    "number": short,
    "quantity": format_quantity,
    "billions": giga,
    "bytes": bytes_shown,
    "percent": percent,
    "multiple": ratio,
    "error": error,
    "share": share,
    "interval": interval,
    "shares": shares,
    "places": places,
}
_ALIGNED: dict[Written, Callable[[float | None], str]] = {
    "number": three,
    "billions": lambda value: three(None if value is None else value / 1e9),
}


def quantity(name: str, *, priority: int | None = None, beside: str = "", aligned: bool = False) -> Column:
    """The column of a quantity.

    Args:
        priority: in this table, where it is not the quantity's own.
        beside: what it is compared with; part of the heading.
        aligned: with the zeros that make a column of numbers line up, as on a page.
    """
    known = QUANTITIES[name]
    written = (_ALIGNED if aligned else {}).get(known.written, _WRITTEN[known.written])
    column = Column(f"{known.heading} {beside}".strip(), written, priority=known.priority)
    return column if priority is None else replace(column, priority=priority)
