"""How near to the machine's limits: MFU and MBU of each arm."""

from collections.abc import Sequence

from membench.report.evidence import Evidence, by_step
from membench.report.palette import INK, LEADER, MUTED
from membench.report.plots.frame import FONT_PX, Figure, note, safe, value_axis
from membench.report.plots.rows import rows_figure
from membench.results.columns import QUANTITIES
from membench.tables.numbers import percent

_UTILIZATIONS = {"mfu": "", "mbu": "-open"}  # and how its marks are filled


def utilization_figure(cases: Sequence[Evidence]) -> Figure | None:
    """A row an arm: a full mark is MFU, an open one MBU, both over the ceilings measured in the same round."""
    rows = by_step(c for c in cases if c.metric("mfu") is not None or c.metric("mbu") is not None)
    if not rows:
        return None
    traces = [_spans(rows)]
    for metric, fill in _UTILIZATIONS.items():
        heading = QUANTITIES[metric].heading
        known = [(i, c, value) for i, c in enumerate(rows) if (value := c.metric(metric)) is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": heading,
                "x": [100 * value for _, _, value in known],
                "y": [-i for i, _, _ in known],
                "text": [safe(c.name) for _, c, _ in known],
                "marker": {
                    "color": [c.style.colour for _, c, _ in known],
                    "symbol": f"circle{fill}",
                    "size": 10,
                    "line": {"width": 2, "color": [c.style.colour for _, c, _ in known]},
                    "opacity": 1,
                },
                "hovertemplate": f"%{{text}}<br>{heading} %{{x:.3g}} %<extra></extra>",
                "cliponaxis": False,
            }
        )
    highest = max([100.0, *(100 * (c.metric(metric) or 0.0) for c in rows for metric in _UTILIZATIONS)])
    values = [" / ".join(percent(c.metric(metric)) for metric in _UTILIZATIONS) for c in rows]
    key = note("● MFU   ○ MBU", 0, 0.9, xanchor="left", font={"size": FONT_PX, "color": MUTED[0]})
    return rows_figure(
        rows,
        traces,
        value_axis("% of the measured ceiling", [0.0, highest], pad=0.03),
        values,
        "MFU / MBU",
        annotations=[key],
        shapes=[_limit(len(rows))],
    )


def _spans(rows: Sequence[Evidence]) -> dict:
    """Thin lines between the two marks of a row."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for i, case in enumerate(rows):
        both = [case.metric(metric) for metric in _UTILIZATIONS]
        if None not in both:
            xs += [*(100 * (value or 0.0) for value in both), None]
            ys += [-i, -i, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "hoverinfo": "skip",
        "line": {"color": LEADER[0], "width": 1},
    }


def _limit(rows: int) -> dict:
    return {
        "type": "line",
        "x0": 100,
        "x1": 100,
        "y0": 0.5 - rows,
        "y1": 0.6,
        "layer": "below",
        "line": {"color": INK[0], "width": 1, "dash": "dot"},
    }
