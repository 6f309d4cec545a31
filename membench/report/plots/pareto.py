"""What each arm costs: one cost against another, and which arms no other beats on both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from membench.layers.spec.quantities import format_quantity
from membench.report.evidence import Evidence
from membench.report.palette import INK, LEADER
from membench.report.plots.frame import Figure, figure, safe, value_axis
from membench.report.plots.labels import Named, beside
from membench.results.columns import QUANTITIES

_HEIGHT_PX = 440
_MARGIN = {"l": 60, "r": 20, "t": 12, "b": 48}
_AREA_PX = _HEIGHT_PX - _MARGIN["t"] - _MARGIN["b"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Something of which less is better."""

    quantity: str
    of: Callable[[Evidence], float | None]
    shown: Callable[[float], str] = "{:g}".format

    @property
    def title(self) -> str:
        return QUANTITIES[self.quantity].axis


def _gigabytes(value: float | None) -> float | None:
    return None if value is None else value / 1e9


STEP = Cost("step_ms", lambda c: c.step_ms)
JOULES = Cost("energy_j_per_token", lambda c: c.joules_per_token)
STORED = Cost("stored_bytes", lambda c: _gigabytes(c.stored_bytes))
PEAK = Cost("peak_bytes", lambda c: _gigabytes(c.peak_bytes))
FLOPS = Cost("flops_per_token", lambda c: c.flops_per_token, format_quantity)


def pareto_figures(cases: Sequence[Evidence]) -> dict[str, Figure]:
    """A plot for each pair of costs that at least two arms have, the most asked for first."""
    pairs = [(STORED, STEP), (PEAK, STEP), (FLOPS, STEP), (JOULES, STEP), (STORED, JOULES), (PEAK, JOULES)]
    found = {f"{y.title} over {x.title}": _figure(cases, x, y) for x, y in pairs}
    return {title: made for title, made in found.items() if made is not None}


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats on one axis without losing on the other, by rising x."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def _figure(cases: Sequence[Evidence], x_cost: Cost, y_cost: Cost) -> Figure | None:
    placed = [
        (case, x, y)
        for case in cases
        if case.measured and (x := x_cost.of(case)) and (y := y_cost.of(case)) and min(x, y) > 0
    ]
    if len(placed) < 2:
        return None
    xs, ys = [x for _, x, _ in placed], [y for _, _, y in placed]
    x_axis = value_axis(x_cost.title, xs, x_cost.shown, pad=0.12)
    y_axis = value_axis(y_cost.title, ys, y_cost.shown, pad=0.08)
    best = frontier(list(zip(xs, ys, strict=True)))
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in best],
        "y": [y for _, y in best],
        "line": {"color": LEADER[0], "width": 1.5, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
    on_front = [(x, y) in best for _, x, y in placed]
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": xs,
        "y": ys,
        "text": [safe(case.name) for case, _, _ in placed],
        "marker": {
            "color": [case.style.colour for case, _, _ in placed],
            "symbol": [case.style.symbol for case, _, _ in placed],
            "opacity": 1,
            "size": [12 if front else 9 for front in on_front],
            "line": {"color": INK[0], "width": [1.5 if front else 0 for front in on_front]},
        },
        "hovertemplate": f"%{{text}}<br>{x_cost.title}: %{{x:.4g}}<br>{y_cost.title}: %{{y:.4g}}<extra></extra>",
    }
    names = [Named(case.name, x, y) for case, x, y in placed]
    return figure(
        [line, marks],
        _HEIGHT_PX,
        margin=_MARGIN,
        xaxis=x_axis,
        yaxis=y_axis,
        annotations=beside(names, x_axis, y_axis, _AREA_PX),
    )
