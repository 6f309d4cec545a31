"""Every sample of every round: what a median hides."""

import statistics
from collections.abc import Sequence

from membench.report.evidence import Evidence, by_step
from membench.report.plots.frame import Figure, safe, value_axis
from membench.report.plots.rows import rows_figure
from membench.results.columns import QUANTITIES
from membench.tables.numbers import three

_LANES = 0.56  # of a row, shared by its rounds
_TOLD_FROM = 0.02  # of the step: less communication has no mark of its own
_MOST_DOTS = 400  # of a case, spread evenly over its samples


def samples_figure(cases: Sequence[Evidence]) -> Figure | None:
    """A row an arm: dots are samples, a lane a round, a bar its median, a diamond the step with communication."""
    rows = by_step(c for c in cases if c.rounds_ms)
    if not rows:
        return None
    dots, bars, steps = _marks("dots"), _marks("bars"), _marks("steps")
    for row, case in enumerate(rows):
        rounds = case.rounds_ms
        for lane, samples in enumerate(rounds):
            y = -row + _LANES * (0.5 - (lane + 0.5) / len(rounds))
            kept = samples[:: -(-len(samples) * len(rounds) // _MOST_DOTS)]
            told = f"{safe(case.name)}, round {lane + 1}"
            width = _LANES / len(rounds)
            _add(dots, kept, [y + width * _jitter(i) for i in range(len(kept))], case, told)
            _add(bars, [statistics.median(samples)], [y], case, f"{told}: median of {len(samples)}")
        if case.communication_ms > _TOLD_FROM * (case.step_ms or 0.0):
            _add(steps, [case.step_ms or 0.0], [-row], case, f"{safe(case.name)}, with predicted communication")
    dots["marker"] |= {"size": 5, "opacity": 0.4, "symbol": "circle"}
    most = max(len(case.rounds_ms) for case in rows)
    bars["marker"] |= {"size": max(8, 20 // most), "symbol": "line-ns-open", "line": {"width": 2.5}}
    steps["marker"] |= {"size": 9, "symbol": "diamond-open", "line": {"width": 1.75}}
    x_axis = value_axis("milliseconds", [*dots["x"], *steps["x"]])
    values, heading = [three(case.step_ms) for case in rows], QUANTITIES["step_ms"].heading
    return rows_figure(rows, [dots, bars, steps], x_axis, values, heading)


def _marks(name: str) -> dict:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [],
        "y": [],
        "text": [],
        "marker": {"color": []},
        "hovertemplate": "%{text}<br>%{x:.4g} ms<extra></extra>",
        "cliponaxis": False,
    }


def _add(trace: dict, xs: list[float], ys: list[float], case: Evidence, told: str) -> None:
    trace["x"] += xs
    trace["y"] += ys
    trace["text"] += [told] * len(xs)
    trace["marker"]["color"] += [case.style.colour] * len(xs)


def _jitter(i: int) -> float:
    """Even and always the same (golden ratio), within the middle 70 % of a lane."""
    return 0.7 * ((i * 0.6180339887) % 1.0 - 0.5)
