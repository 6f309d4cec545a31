"""The roofline picture of a profile: its stages as points under the measured ceilings, as HTML, PNG or SVG."""

import html
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from membench.errors import UsageError, one_line
from membench.files import check_writable, write_whole
from membench.results.ceilings import Ceilings
from membench.results.columns import QUANTITIES
from membench.results.profile import LayerProfile, ModeProfile, Profile
from membench.results.roofline import RooflinePoint
from membench.tables.numbers import short
from membench.words import how_many

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".html", ".png", ".svg")
_PANEL_INCHES = (8.0, 4.8)
_FORWARD, _BACKWARD, _ROOF = "#0072B2", "#D55E00", "#555555"  # Okabe and Ito's, told apart by the colour-blind
_LABEL_STEP = 0.052  # of a panel's height, between two labels
_LABEL_AT = 1.03  # of a panel's width


def check_picture_path(path: Path) -> None:
    """Refuses what could not be written, before anything is measured.

    Raises:
        UsageError: of another suffix, it cannot be written, or what draws it cannot be imported.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} should end with {', '.join(SUFFIXES)}", source="--roofline")
    check_writable(path, "--roofline")
    if path.suffix != ".html":
        try:
            _import_matplotlib()
        except Exception as error:  # a settings file that is no text, no folder for its fonts
            reason = one_line(f"{type(error).__name__}: {error}")
            raise UsageError(f"{path} cannot be drawn ({reason}); ask for .html", source="--roofline") from None


def write_rooflines(profile: Profile, paths: Sequence[Path]) -> list[str]:
    """Every picture that can be drawn and written; a line for each that cannot, and why."""
    problems = []
    for path in paths:
        try:
            write_roofline(profile, path)
        except Exception as error:  # whatever a drawing library raises: what was measured has been told
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            problems.append(one_line(f"--roofline: {path} cannot be written ({reason})"))
    return problems


def write_roofline(profile: Profile, path: Path) -> None:
    """One panel for each layer and mode that was profiled, by the suffix of ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    panels = [
        (_title(profile, layer, mode), points_of(mode), Ceilings.of(layer.ceilings))
        for layer in profile.layers
        for mode in layer.measured
    ]
    write_whole(path, _page(panels).encode() if path.suffix == ".html" else _drawn(panels, path.suffix))


def points_of(mode: ModeProfile) -> list[RooflinePoint]:
    """Every stage; one without FLOPs or bytes has no place under a roof, and is named beside."""
    return [
        RooflinePoint(row.label, row.flops or 0.0, row.bytes_dram_expected or 0.0, row.time_ms / 1e3)
        for row in mode.stages
    ]


def _title(profile: Profile, layer: LayerProfile, mode: ModeProfile) -> str:
    ranks = "" if profile.ranks == 1 else f", one rank of P = {profile.ranks}"
    return f"{layer.arm} {mode.mode}, {how_many(layer.tokens, 'token')}{ranks}, {short(mode.observed_ms)} ms"


class _Mark(NamedTuple):
    """A stage that has a place under a roof."""

    name: str
    flops_per_byte: float
    flops_per_s: float
    seconds: float


Panel = tuple[str, Sequence[RooflinePoint], Ceilings]


def _page(panels: Sequence[Panel]) -> str:
    """A page that needs nothing from elsewhere; plotly is in it once."""
    from membench.report.plots.roofline import roofline_figure

    parts = [
        f"<h2>{html.escape(title)}</h2>"
        + roofline_figure("", points, ceilings).to_html(full_html=False, include_plotlyjs=index == 0)
        for index, (title, points, ceilings) in enumerate(panels)
    ]
    title = html.escape("; ".join(panel[0] for panel in panels))
    style = "<style>body { font-family: system-ui, sans-serif; } h2 { font-size: 1rem; margin: 1rem 0 0 72px; }</style>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>{style}'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _drawn(panels: Sequence[Panel], suffix: str) -> bytes:
    """A PNG or SVG file. Neither the user's ``matplotlibrc`` nor their backend has a say: it would look as they do."""
    matplotlib = _import_matplotlib()
    from matplotlib.figure import Figure

    width, height = _PANEL_INCHES
    file = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "membench", "font.size": 9})
        figure = Figure(figsize=(width, height * len(panels)), layout="constrained")  # pyplot would ask for a backend
        axes = figure.subplots(len(panels), 1, squeeze=False)
        for panel, (title, points, ceilings) in zip(axes[:, 0], panels, strict=True):
            _draw_panel(panel, title, points, ceilings)
        figure.savefig(file, format=suffix.removeprefix("."), dpi=150)
    return file.getvalue()


def _import_matplotlib() -> ModuleType:
    """Matplotlib; without ``MPLBACKEND``, which it refuses to be imported under where it does not know the name."""
    asked = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
    return matplotlib


def _draw_panel(panel: "Axes", title: str, points: Sequence[RooflinePoint], ceilings: Ceilings) -> None:
    marks = [
        _Mark(point.name, point.intensity, point.flops_per_s, point.seconds)
        for point in points
        if point.intensity and point.flops_per_s
    ]
    x_axis, y_axis = QUANTITIES["flops_per_dram_byte"].axis, QUANTITIES["flops_per_s"].axis
    panel.set(xscale="log", yscale="log", xlabel=x_axis, ylabel=y_axis)
    panel.set_title(title, loc="left", fontweight="bold")
    panel.grid(visible=True, which="major", color="#e4e4e4", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    for mark in marks:
        colour = _BACKWARD if mark.name.endswith(" backward") else _FORWARD
        panel.plot(mark.flops_per_byte, mark.flops_per_s, "o", color=colour, markersize=6, zorder=3)
    _limit(panel, marks, ceilings)
    _draw_roofs(panel, ceilings)
    _name_marks(panel, marks)
    placed = {mark.name for mark in marks}
    absent = [f"{point.name} {short(1e3 * point.seconds)} ms" for point in points if point.name not in placed]
    if absent:
        text = f"Without FLOPs or bytes, so not under a roof: {', '.join(absent)}"
        panel.text(0, -0.17, text, transform=panel.transAxes, fontsize=8, color=_ROOF, wrap=True, va="top")


def _limit(panel: "Axes", marks: Sequence[_Mark], ceilings: Ceilings) -> None:
    """Axes that hold every point, and the corner of the roof."""
    intensities = [mark.flops_per_byte for mark in marks]
    rates = [mark.flops_per_s for mark in marks]
    if ceilings.matmul_flops_per_s:
        rates += [ceilings.matmul_flops_per_s, ceilings.matmul_flops_per_s / 100]
        if ceilings.stream_bytes_per_s:
            corner = ceilings.matmul_flops_per_s / ceilings.stream_bytes_per_s
            intensities += [corner, corner / 10]
    if intensities and rates:
        panel.set_xlim(min(intensities) / 3, max(intensities) * 3)
        panel.set_ylim(min(rates) / 2, max(rates) * 2)


def _draw_roofs(panel: "Axes", ceilings: Ceilings) -> None:
    """The matrix product's roof, and below it a slope for streams and one for random rows."""
    (left, right), (bottom, _) = panel.get_xlim(), panel.get_ylim()
    top = ceilings.matmul_flops_per_s
    streams = ceilings.stream_bytes_per_s
    if top:
        corner = max(left, top / streams) if streams else left
        panel.axhline(top, color=_ROOF, linewidth=1.2)
        panel.text(corner, top, f" matrix product {short(top / 1e9)} GFLOP/s", ha="left", va="bottom", color=_ROOF)
    slopes: list[tuple[str, float | None, str, float, dict[str, str]]] = [
        ("streams", streams, "-", 0.7, {"ha": "right", "va": "bottom"}),
        ("random rows", ceilings.random_row_bytes_per_s, "--", 0.45, {"ha": "left", "va": "top"}),
    ]
    for name, rate, style, along, side in slopes:
        if not rate:
            continue
        start, end = max(left, bottom / rate), min(right, top / rate) if top else right
        at = start * (end / start) ** along  # a name above its line, the other below: neither is crossed
        panel.plot([left, end], [rate * left, rate * end], style, color=_ROOF, linewidth=1.2)
        panel.text(at, rate * at, f" {name} {short(rate / 1e9)} GB/s ", color=_ROOF, **side)  # type: ignore[arg-type]


def _name_marks(panel: "Axes", marks: Sequence[_Mark]) -> None:
    """Names in a column beside the panel, in the order of their marks' heights, each with a line to its mark."""
    ranked = sorted(marks, key=lambda mark: mark.flops_per_s)
    bottom, top = (math.log(limit) for limit in panel.get_ylim())
    heights = [(math.log(mark.flops_per_s) - bottom) / (top - bottom) for mark in ranked]
    for mark, height in zip(ranked, _spread(heights), strict=True):
        panel.annotate(
            f"{mark.name}  {short(1e3 * mark.seconds)} ms",
            xy=(mark.flops_per_byte, mark.flops_per_s),
            xytext=(_LABEL_AT, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.7, "shrinkB": 4, "relpos": (0, 0.5)},
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Rising heights moved apart to at least a label's step, and as little as that takes within 0 and 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + _LABEL_STEP if placed else 0.0))
    excess = max(0.0, placed[-1] - 1.0) if placed else 0.0
    top = (placed[-1] - excess) if placed else 1.0
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], top)
        top = placed[index] - _LABEL_STEP
    return placed
