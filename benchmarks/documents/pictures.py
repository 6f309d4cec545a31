"""A run as a picture: each arm's step today with its interval, and the floor that the hardware allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.documents.labels import in_order, short_labels
from benchmarks.documents.svg import MARKERS, framed, same_everywhere, sheet, with_legend
from benchmarks.standings import Point, Standing, points_of
from membench.report.palette import INK, MUTED, Style, arm_styles
from membench.results.columns import QUANTITIES
from membench.results.records import ResultFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _AROUND = 0.26, 1.3  # inches
_LINES_HEIGHT = 3.6
_FLOOR = {"markersize": 11, "markeredgewidth": 1.8}


@dataclass(frozen=True, slots=True)
class _Panel:
    """Points of one mode. ``axis``: where every point stands on the only axis that is a number; None: a row each."""

    title: str
    points: list[Point]
    labels: list[str]
    axis: list[float] | None


def picture(result: ResultFile) -> bytes | None:
    """The picture as SVG; None where nothing was measured."""
    panels = _panels(result)
    if not panels:
        return None
    styles = arm_styles(result.cases)
    with same_everywhere():
        lines = all(panel.axis for panel in panels)  # they share an axis, on which a row has no place
        if lines:
            figure = sheet(_LINES_HEIGHT)
            axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        else:
            heights = [_ROW * _rows(panel) for panel in panels]
            figure = sheet(sum(heights) + _AROUND * len(panels))
            axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[h + 0.6 for h in heights])[:, 0]
        for panel, on in zip(panels, axes, strict=True):
            framed(on, panel.title)
            draw = _draw_lines if lines else _draw_points if len(panel.points) > 1 else _draw_arms
            draw(on, panel, styles)
        return with_legend(figure)


def _panels(result: ResultFile) -> list[_Panel]:
    points = in_order(points_of(result))
    modes = list(dict.fromkeys(point.title.split(", ")[0] for point in points))
    panels = []
    for mode in modes:
        of = [point for point in points if point.title.split(", ")[0] == mode]
        labels = short_labels(of, ranks=result.run.ranks)
        panels.append(_Panel(mode, of, labels, _tokens_axis(of)))
    return panels


def _tokens_axis(points: Sequence[Point]) -> list[float] | None:
    """The token counts of points that differ in nothing else; of models in decoding they are the batch."""
    counts = (" token", " sequence")
    elsewhere = {
        tuple(part for part in point.title.split(", ") if not any(count in part for count in counts))
        for point in points
    }
    tokens = [float(point.standings[0].record.case.tokens) for point in points]
    return tokens if len(elsewhere) == 1 and len(set(tokens)) == len(points) > 1 else None


def _rows(panel: _Panel) -> int:
    return len(panel.points) if len(panel.points) > 1 else len(panel.points[0].standings)


def _draw_arms(on: "Axes", panel: _Panel, styles: dict[str, Style]) -> None:
    """A row an arm, the fastest on top."""
    standings = panel.points[0].standings
    for row, each in enumerate(standings):
        _mark(on, each, row, _Look.of(each, styles))
        _floor(on, each, row, _Look.of(each, styles))
    on.plot([], [], "o", color=MUTED[0], label="today, with its interval")
    _floor_named(on)
    _rows_named(on, [each.arm for each in standings])


def _draw_points(on: "Axes", panel: _Panel, styles: dict[str, Style]) -> None:
    """A row a point, with every arm's mark on it."""
    told: set[str] = set()
    for row, point in enumerate(panel.points):
        for each in point.standings:
            look = _Look.of(each, styles)
            _mark(on, each, row, look, "" if each.arm in told else each.arm)
            _floor(on, each, row, look)
            told.add(each.arm)
    _floor_named(on)
    _rows_named(on, panel.labels)


def _draw_lines(on: "Axes", panel: _Panel, styles: dict[str, Style]) -> None:
    """A line an arm over the token counts, its interval as a band, its floor dotted."""
    assert panel.axis is not None
    arms = list(dict.fromkeys(each.arm for point in panel.points for each in point.standings))
    for arm in arms:
        along = [
            (at, each)
            for at, point in zip(panel.axis, panel.points, strict=True)
            for each in point.standings
            if each.arm == arm
        ]
        at, standings = [x for x, _ in along], [each for _, each in along]
        look = _Look.of(standings[0], styles)
        drawn = {"color": look.colour, "marker": look.marker, "markersize": 4.5, "linewidth": 1.4}
        on.plot(at, [each.step_ms for each in standings], label=arm, **drawn)
        if all(each.low_ms for each in standings):
            ends = ([each.low_ms for each in standings], [each.high_ms for each in standings])
            on.fill_between(at, *ends, color=look.colour, alpha=0.18, linewidth=0)  # type: ignore[arg-type]
        floors = [(x, least) for x, each in along if (least := _least_ms(each)) is not None]
        on.plot([x for x, _ in floors], [ms for _, ms in floors], ":", color=look.colour, linewidth=1.2)
    on.plot([], [], ":", color=MUTED[0], linewidth=1.2, label="floor")
    on.set_xscale("log", base=2)
    on.set_yscale("log")
    on.set_xticks(panel.axis, [f"{tokens:g}" for tokens in panel.axis])
    on.set_xlabel("tokens a rank", color=INK[0])
    on.set_ylabel(QUANTITIES["step_ms"].axis, color=INK[0])
    _plain_numbers(on.yaxis)


@dataclass(frozen=True, slots=True)
class _Look:
    colour: str
    marker: str

    @classmethod
    def of(cls, standing: Standing, styles: dict[str, Style]) -> "_Look":
        style = styles[standing.record.case.arm]
        return cls(style.colour, MARKERS[style.symbol])


def _mark(on: "Axes", standing: Standing, row: float, look: _Look, label: str = "") -> None:
    if standing.low_ms is not None and standing.high_ms is not None:
        on.plot([standing.low_ms, standing.high_ms], [row, row], color=look.colour, linewidth=2.2, alpha=0.55)
    on.plot([standing.step_ms], [row], look.marker, color=look.colour, markersize=6, linestyle="", label=label or None)


def _floor(on: "Axes", standing: Standing, row: float, look: _Look) -> None:
    least = _least_ms(standing)
    if least is not None:
        on.plot([least], [row], "|", color=look.colour, **_FLOOR)


def _floor_named(on: "Axes") -> None:
    on.plot([], [], "|", color=MUTED[0], label="floor", **_FLOOR)


def _least_ms(standing: Standing) -> float | None:
    """The floor of the compute, with the communication that today's step has too."""
    return None if standing.floor_ms is None else standing.floor_ms + standing.communication_ms


def _rows_named(on: "Axes", names: Sequence[str]) -> None:
    on.set_yticks(range(len(names)), names)
    on.set_ylim(len(names) - 0.5, -0.5)
    on.set_xscale("log")
    on.set_xlabel(QUANTITIES["step_ms"].axis, color=INK[0])
    _plain_numbers(on.xaxis)


def _plain_numbers(axis: object) -> None:
    """10 and 200 instead of powers; a few numbers between the powers where there is room."""
    from matplotlib.axis import Axis
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    assert isinstance(axis, Axis)
    low, high = axis.get_view_interval()
    between = (1.0, 2.0, 5.0) if high / low < 2000 else (1.0,)
    axis.set_major_locator(LogLocator(subs=between))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
