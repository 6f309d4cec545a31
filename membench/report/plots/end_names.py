"""The names of lines, each at its line's right end."""

from collections.abc import Sequence
from typing import Any

from membench.report.evidence import Evidence
from membench.report.plots.frame import FONT_PX, LINE_PX, fraction, note, on_axis, safe
from membench.report.plots.spread import spread

HEIGHT_PX = 420
MARGIN = {"l": 60, "r": 16, "t": 12, "b": 48}
_AREA_PX = HEIGHT_PX - MARGIN["t"] - MARGIN["b"]
_CHAR_PX = 6.8


def margin_with(names: Sequence[str]) -> dict[str, float]:
    """The margin of a plot that has room for these at its right."""
    return {**MARGIN, "r": max(len(safe(name)) for name in names) * _CHAR_PX + 20}


def end_names(named: Sequence[tuple[str, float, Evidence]], y_axis: dict[str, Any]) -> list[dict[str, Any]]:
    """Each line's name at its right end, moved apart.

    Args:
        named: the name, where its line ends, and whose it is.
        y_axis: of a plot of ``HEIGHT_PX`` with ``margin_with``.
    """
    wanted = [_AREA_PX * fraction(y_axis, value) for _, value, _ in named]
    placed = spread(wanted, LINE_PX, LINE_PX / 2, _AREA_PX - LINE_PX / 2)
    return [
        note(
            safe(name),
            1,
            on_axis(y_axis, value),
            xref="paper",
            xanchor="left",
            xshift=10,
            yshift=moved_to - at,
            font={"size": FONT_PX - 1, "color": case.style.colour},
            name="end",
        )
        for (name, value, case), at, moved_to in zip(named, wanted, placed, strict=True)
    ]
