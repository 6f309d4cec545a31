"""Today's step and its floor, a row an arm: the order that kernels make beside the one that the hardware makes."""

from collections.abc import Sequence
from typing import Any

from membench.report.evidence import Evidence, by_step
from membench.report.palette import LEADER, MUTED
from membench.report.plots.frame import FONT_PX, Figure, note, safe, value_axis
from membench.report.plots.rows import rows_figure
from membench.results.columns import QUANTITIES
from membench.tables.numbers import ratio


def floor_figures(cases: Sequence[Evidence]) -> dict[str, Figure]:
    """The arms by today's step, and by their floor."""
    rows = by_step(c for c in cases if c.floor_step_ms is not None)
    if not rows:
        return {}
    by_floor = sorted(rows, key=lambda case: case.floor_step_ms or 0.0)
    return {"by today's step": _figure(rows), "by the floor": _figure(by_floor)}


def _figure(rows: Sequence[Evidence]) -> Figure:
    """A full mark is the step, an open one its floor; at the right is the latency over the floor."""
    steps, floors = [case.step_ms or 0.0 for case in rows], [case.floor_step_ms or 0.0 for case in rows]
    over = QUANTITIES["over_floor"]
    traces = [_between(floors, steps), _marks(rows, steps, "today", ""), _marks(rows, floors, "floor", "-open")]
    key = note("● today   ○ floor", 0, 0.9, xanchor="left", xref="paper", font={"size": FONT_PX, "color": MUTED[0]})
    return rows_figure(
        rows,
        traces,
        value_axis(QUANTITIES["step_ms"].axis, [*steps, *floors]),
        [ratio(case.metric(over.name)) for case in rows],
        over.heading,
        annotations=[key],
    )


def _marks(rows: Sequence[Evidence], at_ms: Sequence[float], told: str, fill: str) -> dict[str, Any]:
    colours = [case.style.colour for case in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": told,
        "x": list(at_ms),
        "y": [-i for i in range(len(rows))],
        "text": [safe(case.name) for case in rows],
        "marker": {
            "color": colours,
            "symbol": f"circle{fill}",
            "size": 10,
            "line": {"width": 2, "color": colours},
            "opacity": 1,
        },
        "hovertemplate": f"%{{text}}<br>{told} %{{x:.4g}} ms<extra></extra>",
        "cliponaxis": False,
    }


def _between(floors: Sequence[float], steps: Sequence[float]) -> dict[str, Any]:
    """Thin lines from each floor to the step."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for floor, step in zip(floors, steps, strict=True) for x in (floor, step, None)],
        "y": [y for i in range(len(steps)) for y in (-i, -i, None)],
        "hoverinfo": "skip",
        "line": {"color": LEADER[0], "width": 1},
    }
