"""What a training run learnt as a picture: the answer's NLL over tokens, a line the mean over seeds, a band its 95 %
interval.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.documents.labels import told_apart
from benchmarks.documents.svg import MARKERS, framed, same_everywhere, sheet, with_legend
from membench.layers.spec.quantities import format_quantity
from membench.report.evidence import Evidence
from membench.report.palette import INK, Style, arm_styles
from membench.report.plots.curves import LEARNT, SPENT, Curve, curve_of
from membench.results.ranking import trained_groups
from membench.results.records import Record, ResultFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS, _PANEL_HEIGHT, _AROUND = 3, 2.6, 0.7  # panels beside each other; inches
_ANSWER, _TOKENS = LEARNT[0], SPENT[0]


def curve_picture(result: ResultFile) -> bytes | None:
    """The picture as SVG, a panel for each comparable point; None where nothing was learnt."""
    styles = arm_styles(result.cases)
    panels = [(title, known) for title, of in trained_groups(result.cases).items() if (known := _curves(of, styles))]
    if not panels:
        return None
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    with same_everywhere():
        figure = sheet(down * _PANEL_HEIGHT + _AROUND)
        axes = figure.subplots(down, across, squeeze=False)
        places = [on for row in axes for on in row]
        for on in places[len(panels) :]:
            on.set_axis_off()
        for title, (_, curves), on in zip(_titles([title for title, _ in panels]), panels, places, strict=False):
            framed(on, title)
            _draw(on, curves)
        for row in axes:
            row[0].set_ylabel(_ANSWER.axis, color=INK[0])
        return with_legend(figure)


def _titles(whole: list[str]) -> list[str]:
    """The first of what tells panels apart: beside each other there is no room for more."""
    if len(whole) == 1:
        return whole
    short = told_apart(whole)
    first = [title.split(", ")[0] for title in short]
    return first if len({*first}) == len(first) else short


def _curves(records: Sequence[Record], styles: dict[str, Style]) -> list[Curve]:
    cases = [Evidence.of(record, styles) for record in records]
    return [curve for case in cases if (curve := curve_of(case, _ANSWER, _TOKENS)) is not None]


def _draw(on: "Axes", curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for curve in curves:
        style = curve.case.style
        look = {"color": style.colour, "marker": MARKERS[style.symbol], "markersize": 3.5, "linewidth": 1.4}
        on.plot(curve.x, curve.y, label=curve.case.name, **look)
        on.fill_between(curve.x, curve.low, curve.high, color=style.colour, alpha=0.18, linewidth=0)
    on.set_ylim(bottom=0)
    on.xaxis.set_major_locator(MaxNLocator(4))
    on.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: format_quantity(tokens)))
    on.set_xlabel(_TOKENS.axis, color=INK[0])
