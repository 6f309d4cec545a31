"""Latency and throughput along an axis that was swept: tokens of a rank, or keys of a table."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from membench.layers.spec.quantities import format_num_keys, format_quantity
from membench.report.evidence import Evidence
from membench.report.plots.end_names import HEIGHT_PX, end_names, margin_with
from membench.report.plots.frame import (
    Figure,
    figure,
    log_axis,
    safe,
    value_axis,
)
from membench.results.columns import QUANTITIES
from membench.results.ranking import arm_name, step_name, swept, tokens_name


@dataclass(frozen=True, slots=True)
class Along:
    """What is swept: how a case's value is found and shown, and what stays equal along a line."""

    title: str
    of: Callable[[Evidence], float | None]
    shown: Callable[[float], str]
    held: Callable[[Evidence], str]


def _fixed(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


TOKENS = Along(
    "tokens a rank",
    lambda c: c.tokens,
    format_quantity,
    lambda c: _fixed(step_name(c.record), swept(c.record)),
)
KEYS = Along(
    "keys",
    lambda c: c.num_keys,
    format_num_keys,
    lambda c: _fixed(step_name(c.record), tokens_name(c.record), swept(c.record, but="num_keys")),
)


@dataclass(frozen=True, slots=True)
class Plotted:
    """What is plotted against it."""

    quantity: str
    of: Callable[[Evidence], float | None]
    shown: Callable[[float], str]
    spread: Callable[[Evidence], tuple[float, float] | None] = lambda _: None

    @property
    def title(self) -> str:
        return QUANTITIES[self.quantity].axis


LATENCY = Plotted("step_ms", lambda c: c.step_ms, "{:g}".format, lambda c: c.interval_ms)
THROUGHPUT = Plotted("tokens_per_s", lambda c: c.tokens_per_s, format_quantity)


def trend_figures(cases: Sequence[Evidence], along: Along, plotted: Plotted) -> dict[str, Figure]:
    """A plot for each set of cases that differ by the swept value alone, where there are two values of it."""
    sets: dict[str, list[Evidence]] = defaultdict(list)
    for case in cases:
        if case.measured and plotted.of(case):
            sets[along.held(case)].append(case)
    routings = sorted({case.routing for case in cases if case.routing})
    found = {}
    for title, members in sets.items():
        for routing in routings or [""]:
            alike = [case for case in members if case.routing in ("", routing)]
            made = _figure(alike, along, plotted)
            if made is not None:
                found[_fixed(title, routing if len(routings) > 1 else "")] = made
    return found


def _lines(cases: Iterable[Evidence], along: Along) -> dict[str, list[tuple[float, Evidence]]]:
    """The cases of each arm by rising value; an arm's other swept keys make it another line."""
    lines: dict[str, list[tuple[float, Evidence]]] = defaultdict(list)
    for case in cases:
        at = along.of(case)
        if at is not None:
            name = arm_name(case.record, but="num_keys") if along is KEYS else case.name
            lines[name].append((at, case))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items()}


def _figure(cases: Sequence[Evidence], along: Along, plotted: Plotted) -> Figure | None:
    lines = _lines(cases, along)
    if not any(points[0][0] < points[-1][0] for points in lines.values()):
        return None
    at = sorted({x for points in lines.values() for x, _ in points})
    level = [case for case in cases if along.of(case) is None]
    named = [(name, points[-1][1]) for name, points in lines.items()] + [(case.name, case) for case in level]
    heights = [value for case in cases if (value := plotted.of(case))]
    heights += [bound for case in cases for bound in plotted.spread(case) or () if bound > 0]
    y_axis = value_axis(plotted.title, heights, plotted.shown)
    ticks = at if len(at) <= 10 else at[:: -(-len(at) // 8)]
    x_axis = log_axis(along.title, at[0], at[-1]) | {"tickvals": ticks, "ticktext": [along.shown(x) for x in ticks]}
    return figure(
        [
            *(_line(name, points, along, plotted) for name, points in lines.items()),
            *(_level(case, plotted.of(case), at) for case in level),
        ],
        HEIGHT_PX,
        margin=margin_with([name for name, _ in named]),
        xaxis=x_axis,
        yaxis=y_axis,
        annotations=end_names([(name, plotted.of(case) or heights[0], case) for name, case in named], y_axis),
    )


def _line(name: str, points: Sequence[tuple[float, Evidence]], along: Along, plotted: Plotted) -> dict[str, Any]:
    """An arm's medians, joined; upright bars are their intervals."""
    style = points[0][1].style
    values = [plotted.of(case) or 0.0 for _, case in points]
    ranges = [plotted.spread(case) or (value, value) for value, (_, case) in zip(values, points, strict=True)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": safe(name),
        "x": [x for x, _ in points],
        "y": values,
        "line": {"color": style.colour, "width": 1.75},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 7},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - value) for value, (_, high) in zip(values, ranges, strict=True)],
            "arrayminus": [max(0.0, value - low) for value, (low, _) in zip(values, ranges, strict=True)],
            "width": 0,
            "thickness": 1.25,
            "color": style.colour,
        },
        "text": [safe(name)] * len(points),
        "hovertemplate": f"%{{text}}<br>%{{x:,}} {along.title}<br>{plotted.title}: %{{y:.4g}}<extra></extra>",
    }


def _level(case: Evidence, value: float | None, at: Sequence[float]) -> dict[str, Any]:
    """An arm that has no such dimension, as a level line across."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": safe(case.name),
        "x": [at[0], at[-1]],
        "y": [value, value],
        "line": {"color": case.style.colour, "width": 1.75, "dash": "dash"},
        "text": [safe(case.name)] * 2,
        "hovertemplate": "%{text}<br>%{y:.4g}<extra></extra>",
    }
