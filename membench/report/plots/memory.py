"""Where the memory goes: what a layer holds by part, and the peak while it runs."""

from collections.abc import Sequence

from membench.report.evidence import Evidence, by_step
from membench.report.palette import INK, PARTS
from membench.report.plots.frame import Figure, safe, value_axis
from membench.report.plots.rows import rows_figure
from membench.results.columns import QUANTITIES
from membench.tables.numbers import three

_MEASURED = (
    ("weights", "weights_bytes"),
    ("gradients", "gradient_bytes"),
    ("optimizer", "optimizer_bytes"),
    ("saved activations", "saved_activation_bytes"),
)


def memory_figure(cases: Sequence[Evidence]) -> Figure | None:
    """A row an arm: stacked parts, and a bar across at the peak."""
    rows = by_step(c for c in cases if c.peak_bytes is not None)
    if not rows:
        return None
    traces = []
    for (part, metric), (colour, _) in zip(_MEASURED, PARTS, strict=True):
        held = [case.metric(metric) for case in rows]
        if any(held):
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": part,
                    "x": [each if each is None else each / 1e9 for each in held],
                    "y": [-i for i in range(len(rows))],
                    "text": [safe(case.name) for case in rows],
                    "textposition": "none",
                    "width": 0.6,
                    "marker": {"color": colour, "line": {"width": 0}},
                    "hovertemplate": f"%{{text}}<br>{part} %{{x:.3g}} GB<extra></extra>",
                }
            )
    peaks = [(case.peak_bytes or 0.0) / 1e9 for case in rows]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "peak",
            "x": peaks,
            "y": [-i for i in range(len(rows))],
            "text": [safe(case.name) for case in rows],
            "marker": {"color": INK[0], "symbol": "line-ns-open", "size": 18, "line": {"width": 2.5, "color": INK[0]}},
            "hovertemplate": "%{text}<br>peak %{x:.3g} GB<extra></extra>",
            "cliponaxis": False,
        }
    )
    sums = [sum(case.metric(metric) or 0.0 for _, metric in _MEASURED) / 1e9 for case in rows]
    x_axis = value_axis("GB", [0.0, *peaks, *sums])
    values = [three((case.peak_bytes or 0.0) / 1e9) for case in rows]
    return rows_figure(rows, traces, x_axis, values, QUANTITIES["peak_bytes"].heading, barmode="stack", showlegend=True)
