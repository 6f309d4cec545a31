"""Training curves: what an arm had learnt by then, a line the mean over its seeds, a band its 95 % interval."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from membench.layers.spec.quantities import format_quantity
from membench.learning.curve import Point
from membench.report.evidence import Evidence
from membench.report.plots.end_names import HEIGHT_PX, end_names, margin_with
from membench.report.plots.frame import Figure, figure, safe, value_axis
from membench.results.columns import QUANTITIES
from membench.results.learnt import interval
from membench.results.records import Round

_BAND = 0.16  # of full colour


@dataclass(frozen=True, slots=True)
class Measure:
    """What is plotted, or what it is plotted over: its words, and where a point has it."""

    title: str
    axis: str
    of: Callable[[Point], float | None]
    shown: Callable[[float], str] = "{:g}".format


def _metric(name: str) -> Callable[[Point], float | None]:
    return lambda point: point.metrics.get(name)


def _measured(name: str, of: Callable[[Point], float | None], shown: Callable[[float], str] = "{:g}".format) -> Measure:
    known = QUANTITIES[name]
    return Measure(known.heading, known.axis, of, shown)


LEARNT = (
    _measured("answer_nll", _metric("answer_nll")),
    _measured("loss", lambda point: point.loss),
    _measured("em", _metric("em"), "{:.0%}".format),
    _measured("f1", _metric("f1"), "{:.0%}".format),
)
SPENT = (
    _measured("tokens_trained", lambda point: point.tokens, format_quantity),
    _measured("training_flops", lambda point: point.flops, format_quantity),
    _measured("training_seconds", lambda point: point.seconds),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """An arm's means over seeds, place by place, with their intervals where there are seeds enough."""

    case: Evidence
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def curve_figures(cases: Sequence[Evidence]) -> dict[str, Figure]:
    """A plot of everything that was learnt over everything that was spent, where it is known."""
    found = {}
    for learnt in LEARNT:
        for spent in SPENT:
            curves = [curve for case in cases if (curve := curve_of(case, learnt, spent)) is not None]
            if curves:
                found[f"{learnt.title} over {spent.title}"] = _figure(curves, learnt, spent)
    return found


def curve_of(case: Evidence, learnt: Measure, spent: Measure) -> Curve | None:
    """One arm's curve up to where its shortest seed ends; None where nothing of the kind is known."""
    seeds = [each for r in case.record.rounds if r.status == "ok" and (each := _known(r, learnt, spent))]
    places = [*zip(*seeds, strict=False)]
    if not places:
        return None
    x = [statistics.fmean(at for at, _ in of) for of in places]
    values = [[value for _, value in of] for of in places]
    means = [statistics.fmean(of) for of in values]
    ends = [interval(of) or (mean, mean) for of, mean in zip(values, means, strict=True)]
    return Curve(case, x, means, [low for low, _ in ends], [high for _, high in ends])


def _known(seed: Round, learnt: Measure, spent: Measure) -> list[tuple[float, float]]:
    """The places of a seed that have both."""
    pairs = [(spent.of(point), learnt.of(point)) for point in seed.curve]
    return [(at, value) for at, value in pairs if at is not None and value is not None]


def _figure(curves: Sequence[Curve], learnt: Measure, spent: Measure) -> Figure:
    heights = [value for curve in curves for value in (*curve.y, *curve.high)]
    y_axis = value_axis(learnt.axis, [max(0.0, value) for value in heights], learnt.shown)
    x_axis = value_axis(spent.axis, [0.0, *(x for curve in curves for x in curve.x)], spent.shown)
    floor = 10 ** y_axis["range"][0] if y_axis.get("type") == "log" else 0.0  # an interval may reach below nothing
    names = [curve.case.name for curve in curves]
    ends = [(curve.case.name, curve.y[-1], curve.case) for curve in curves]
    return figure(
        [*(_band(curve, floor) for curve in curves), *(_line(curve, learnt, spent) for curve in curves)],
        HEIGHT_PX,
        margin=margin_with(names),
        xaxis=x_axis,
        yaxis=y_axis,
        annotations=end_names(ends, y_axis),
    )


def _line(curve: Curve, learnt: Measure, spent: Measure) -> dict[str, Any]:
    style, name = curve.case.style, safe(curve.case.name)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": curve.x,
        "y": curve.y,
        "line": {"color": style.colour, "width": 1.75},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 4},
        "text": [name] * len(curve.x),
        "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {spent.title}<br>{learnt.title}: %{{y:.4g}}<extra></extra>",
    }


def _band(curve: Curve, floor: float) -> dict[str, Any]:
    """From one end of the intervals and back along the other; ``floor`` is the lowest that the axis shows."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": safe(curve.case.name),
        "x": [*curve.x, *reversed(curve.x)],
        "y": [max(floor, each) for each in (*curve.low, *reversed(curve.high))],
        "fill": "toself",
        "fillcolor": curve.case.style.colour,
        "opacity": _BAND,
        "line": {"color": curve.case.style.colour, "width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
