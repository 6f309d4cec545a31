"""Plots with one row an arm: its name on the left, a number on the right, marks between."""

from collections.abc import Sequence
from typing import Any

from membench.report.evidence import Evidence
from membench.report.palette import MUTED
from membench.report.plots.frame import FONT_PX, Figure, axis, figure, note, safe

ROW_PX = 28
_AXIS_PX = 48
_LEGEND_PX = 40
_CHAR_PX = 7.3  # of the widest of the fonts that may be there


def rows_figure(
    cases: Sequence[Evidence],
    traces: Sequence[dict[str, Any]],
    x_axis: dict[str, Any],
    values: Sequence[str],
    header: str,
    **layout: Any,
) -> Figure:
    """Rows from top to bottom; row i lies at y = -i.

    Args:
        cases: the rows.
        traces: marks in them.
        x_axis: their scale.
        values: what stands at the right of each row.
        header: above these.
    """
    longest = max(len(safe(case.name)) for case in cases)
    widest = max(map(len, [header, *values]))
    names = [
        note(safe(case.name), 0, -i, xref="paper", xanchor="right", xshift=-10, name="row")
        for i, case in enumerate(cases)
    ]
    muted = {"size": FONT_PX, "color": MUTED[0]}
    numbers = [
        note(value, 1, -i, xref="paper", xanchor="right", xshift=widest * _CHAR_PX + 10)
        for i, value in enumerate(values)
    ]
    above = note(header, 1, 0.9, xref="paper", xanchor="right", xshift=widest * _CHAR_PX + 10, font=muted)
    at = [-i for i in range(len(cases))]
    extra = layout.pop("annotations", [])
    top = _LEGEND_PX if layout.get("showlegend") else 12
    return figure(
        traces,
        height=ROW_PX * (len(cases) + 1) + top + _AXIS_PX,
        margin={"l": longest * _CHAR_PX + 22, "r": widest * _CHAR_PX + 18, "t": top, "b": _AXIS_PX},
        xaxis=x_axis,
        yaxis=axis("", range=[0.5 - len(cases), 1.2], tickvals=at, ticktext=[""] * len(cases)),
        annotations=[*names, *numbers, above, *extra],
        meta={"rows": len(cases)},
        **layout,
    )
