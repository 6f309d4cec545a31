"""The roofline: what each stage or case reaches, under what the device could reach."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from membench.layers.spec.quantities import format_quantity
from membench.report.palette import INK, MUTED, PAPER, STAGES, Style
from membench.report.plots.frame import FONT_PX, Figure, figure, log_axis, note, safe
from membench.report.plots.labels import Named, beside
from membench.results.ceilings import Ceilings
from membench.results.columns import QUANTITIES
from membench.results.roofline import RooflinePoint
from membench.tables.numbers import short

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_HEIGHT_PX = 460
_MARGIN = {"l": 72, "r": 20, "t": 16, "b": 52}
_AREA_PX = _HEIGHT_PX - _MARGIN["t"] - _MARGIN["b"]
_TITLE_PX = 36
_TITLE_CHARS = 120


def roofline_figure(title: str, points: Sequence[RooflinePoint], ceilings: Ceilings) -> "PlotlyFigure":
    """The points under the ceilings, log-log, ready to be shown or written by itself.

    Points without FLOPs, bytes or time have no place on it and are named below it.

    Args:
        title: shown above; empty for none.
        points: stages of a layer, or whole cases.
        ceilings: each drawn where it is known.
    """
    from plotly import graph_objects

    styles = {point.name: Style(STAGES[i % len(STAGES)], "circle") for i, point in enumerate(points)}
    found = roofline(points, ceilings, styles)
    if title:
        layout = found["layout"]
        layout["title"] = {
            "text": safe(title, _TITLE_CHARS),
            "x": 0,
            "xref": "paper",
            "font": {"size": 15, "color": INK[0]},
        }
        layout["height"] += _TITLE_PX
        layout["margin"] = {**layout["margin"], "t": layout["margin"]["t"] + _TITLE_PX}
    return graph_objects.Figure(found)


def roofline(points: Sequence[RooflinePoint], ceilings: Ceilings, styles: Mapping[str, Style]) -> Figure:
    """The same as plotly's mapping, each point in the style of its name."""
    placed = [p for p in points if p.flops > 0 and p.seconds > 0 and p.bytes > 0 and math.isfinite(p.flops / p.bytes)]
    missing = [p.name for p in points if p not in placed]
    x_axis, y_axis = _axes(placed, ceilings)
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": [p.intensity for p in placed],
        "y": [p.flops_per_s for p in placed],
        "text": [_told(p, ceilings) for p in placed],
        "marker": {
            "color": [styles[p.name].colour for p in placed],
            "symbol": [styles[p.name].symbol for p in placed],
            "size": 10,
            "opacity": 1,
        },
        "hovertemplate": "%{text}<extra></extra>",
    }
    roofs = _roofs(ceilings, x_axis, y_axis)
    names = [Named(p.name, p.intensity or 1.0, p.flops_per_s or 1.0) for p in placed]
    absent = f"no place here, without FLOPs, bytes or time: {', '.join(map(safe, missing))}"
    muted = {"size": FONT_PX - 1, "color": MUTED[0]}
    below = note(absent, 0, 0.01, xref="paper", yref="paper", xanchor="left", yanchor="bottom", font=muted)
    below["bgcolor"] = PAPER[0]
    return figure(
        [*(line for line, _ in roofs), marks],
        _HEIGHT_PX,
        margin=_MARGIN,
        xaxis=x_axis,
        yaxis=y_axis,
        annotations=[
            *(name for _, name in roofs),
            *beside(names, x_axis, y_axis, _AREA_PX),
            *([below] if missing else []),
        ],
    )


def _axes(placed: Sequence[RooflinePoint], ceilings: Ceilings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ranges that hold every point, and the corner of the roof with a decade of its slope."""
    matmul, stream = ceilings.matmul_flops_per_s, ceilings.stream_bytes_per_s
    xs = [p.intensity or 1.0 for p in placed] + ([matmul / stream] if matmul and stream else [])
    ys = [p.flops_per_s or 1.0 for p in placed] + ([matmul, matmul / 30] if matmul else [])
    xs, ys = xs or [1.0], ys or [1e9]
    x_axis = log_axis(QUANTITIES["flops_per_dram_byte"].axis, min(xs) / 6, max(xs) * 20, pad=0)
    y_axis = log_axis(QUANTITIES["flops_per_s"].axis, min(ys) / 2.5, max(ys) * 2.2, lambda v: _si(v).strip(), pad=0)
    return x_axis, y_axis


def _roofs(
    ceilings: Ceilings, x_axis: dict[str, Any], y_axis: dict[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each ceiling as a line and its name: flat for the matrix product, rising for memory."""
    (left, right), bottom = x_axis["range"], y_axis["range"][0]
    matmul = ceilings.matmul_flops_per_s
    top = math.log10(matmul) if matmul else y_axis["range"][1]
    slopes = [
        (rate, f"{name} {_si(rate)}B/s", dash)
        for name, rate, dash in (
            ("streams", ceilings.stream_bytes_per_s, "solid"),
            ("random rows", ceilings.random_row_bytes_per_s, "dash"),
        )
        if rate
    ]
    fastest = max((rate for rate, _, _ in slopes), default=None)
    roofs = []
    for rate, name, dash in slopes:
        start = max(left, bottom - math.log10(rate))
        end = min(right, top - math.log10(rate))
        if start >= end:
            continue
        # the faster is named above its line, the slower below: a name never crosses a line
        above = rate == fastest
        named_at = start + (end - start) * (0.75 if above else 0.4)
        anchor: dict[str, Any] = {"xanchor": "right", "xshift": -7} if above else {"xanchor": "left", "xshift": 7}
        line = _line([start, end], [math.log10(rate) + start, math.log10(rate) + end], dash)
        roofs.append((line, _roof_name(name, named_at, math.log10(rate) + named_at, **anchor)))
    if matmul:
        corner = max(left, top - math.log10(fastest)) if fastest else left
        name = f"matrix product {_si(matmul)}FLOP/s"
        line = _line([min(corner, right), right], [top, top], "solid")
        roofs.append((line, _roof_name(name, right, top, xanchor="right", yanchor="bottom")))
    return roofs


def _line(log_x: list[float], log_y: list[float], dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [10**x for x in log_x],
        "y": [10**y for y in log_y],
        "line": {"color": MUTED[0], "width": 1.5, "dash": dash},
        "hoverinfo": "skip",
    }


def _roof_name(name: str, log_x: float, log_y: float, **anchor: Any) -> dict[str, Any]:
    return note(name, log_x, log_y, font={"size": FONT_PX - 1, "color": MUTED[0]}, **anchor)


def _told(point: RooflinePoint, ceilings: Ceilings) -> str:
    """What hovering says: the point's numbers, and its share of the roof above it."""
    intensity, reached = point.intensity or 0.0, point.flops_per_s or 0.0
    lines = [
        f"<b>{safe(point.name)}</b>",
        f"{short(1e3 * point.seconds)} ms",
        f"{_si(reached)}FLOP/s",
        f"{_si(point.bytes_per_s or 0.0)}B/s",
        f"{short(intensity)} FLOPs a byte",
    ]
    if ceilings.matmul_flops_per_s and ceilings.stream_bytes_per_s:
        roof = min(ceilings.matmul_flops_per_s, intensity * ceilings.stream_bytes_per_s)
        if roof > 0:  # of numbers so small that their quotient is 0, nothing is known
            lines.append(f"{100 * reached / roof:.0f} % of the roof of streams and products")
    return "<br>".join(lines)


def _si(value: float) -> str:
    """A rate with its prefix: ``33 G``."""
    shown = format_quantity(value).replace("B", "G")
    return f"{shown[:-1]} {shown[-1]}" if shown[-1].isalpha() else f"{shown} "
