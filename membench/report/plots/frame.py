"""What all plots share: the frame, axes with units, and names that stay text.

A figure is plotly's mapping of data and layout. Its colours are the palette's light ones; the page
exchanges them for a dark reader. Annotations have a ``name`` where a narrow page treats them
otherwise: ``row`` is the name of a row, ``end`` that of a line.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

from membench.report.palette import GRID, INK, LEADER, MUTED, PAPER

Figure = dict[str, Any]

FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FONT_PX = 12
LINE_PX = 16  # the least distance of two labels
_LOG_FROM = 8.0  # a span of more is shown on a logarithmic axis


def safe(name: str, most_chars: int = 44) -> str:
    """A name as plotly shows it: no tag, no link, no entity of it is interpreted; long ones are cut."""
    line = " ".join(name.split())
    line = line if len(line) <= most_chars else line[: most_chars - 1] + "…"
    return html.escape(line, quote=False)


def figure(traces: Sequence[dict[str, Any]], height: int, **layout: Any) -> Figure:
    """Traces in the common frame."""
    return {
        "data": list(traces),
        "layout": {
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
            "paper_bgcolor": PAPER[0],
            "plot_bgcolor": PAPER[0],
            "font": {"family": FONT, "size": FONT_PX, "color": INK[0]},
            "hoverlabel": {"bgcolor": PAPER[0], "bordercolor": LEADER[0], "font": {"color": INK[0], "size": FONT_PX}},
            "hovermode": "closest",
            "showlegend": False,
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "yanchor": "bottom",
                "font": {"color": INK[0]},
                "traceorder": "normal",
            },
            "dragmode": False,
            **layout,
        },
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """A quiet axis: thin grid, muted numbers."""
    return {
        "title": {"text": title, "font": {"color": MUTED[0], "size": FONT_PX}, "standoff": 8},
        "gridcolor": GRID[0],
        "zerolinecolor": LEADER[0],
        "linecolor": LEADER[0],
        "tickfont": {"color": MUTED[0], "size": FONT_PX - 1},
        "zeroline": False,
        "automargin": False,
        **more,
    }


def value_axis(
    title: str, values: Sequence[float], shown: Callable[[float], str] = "{:g}".format, *, pad: float = 0.04
) -> dict[str, Any]:
    """An axis over positive values: logarithmic where their span asks for it, else from zero."""
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_FROM:
        return log_axis(title, low, high, shown, pad=pad)
    step = _round_step(high / 5) if high > 0 else 1.0
    ticks = [step * i for i in range(int(high * (1 + pad) / step) + 1)]
    return axis(title, range=[0, (high or 1.0) * (1 + pad)], tickvals=ticks, ticktext=[shown(t) for t in ticks])


def log_axis(
    title: str, low: float, high: float, shown: Callable[[float], str] = "{:g}".format, *, pad: float = 0.04
) -> dict[str, Any]:
    """A logarithmic axis from ``low`` to ``high`` with a margin of ``pad`` of its length."""
    bottom, top = math.log10(low), math.log10(high)
    margin = pad * (top - bottom) or 0.1
    ticks = _log_ticks(bottom - margin, top + margin)
    return axis(
        title,
        type="log",
        range=[bottom - margin, top + margin],
        tickvals=ticks,
        ticktext=[shown(tick) for tick in ticks],
    )


def note(text: str, x: Any, y: Any, **more: Any) -> dict[str, Any]:
    """Text without an arrow, which hover passes through."""
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": {"size": FONT_PX, "color": INK[0]}, **more}


def on_axis(axis_: dict[str, Any], value: float) -> float:
    """A value as annotations of an axis want it: logarithmic axes take the logarithm."""
    return math.log10(value) if axis_.get("type") == "log" else value


def fraction(axis_: dict[str, Any], value: float) -> float:
    """Where along its axis a value lies, 0 to 1."""
    low, high = axis_["range"]
    return (on_axis(axis_, value) - low) / (high - low)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(step for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


def _log_ticks(bottom: float, top: float) -> list[float]:
    """1, 2, 5 a decade over a short span, decades over a longer one."""
    steps = (1, 2, 5) if top - bottom < 2.3 else (1,)
    every = max(1, math.ceil((top - bottom) / 8))
    decades = range(math.floor(bottom), math.ceil(top) + 1, every)
    return [s * 10.0**d for d in decades for s in steps if bottom <= math.log10(s) + d <= top]
