"""SVG that looks the same everywhere: letters are drawn as paths, on white, so that it can be read on a dark page.

The same run gives the same bytes: no date, fixed ids.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from membench.report.palette import GRID, INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches
_MOST_COLUMNS = 4  # of a legend
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "pentagon": "p",
    "star": "*",
    "hexagon": "h",
}
_HELD: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "membench", "font.size": 9}


@contextmanager
def same_everywhere() -> Iterator[None]:
    """Inside, matplotlib draws as it does on every machine, whatever its user has set."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_HELD)
        yield


def sheet(height: float) -> "Figure":
    """An empty picture, so many inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor=PAPER[0])


def framed(on: "Axes", title: str) -> None:
    """A panel's title, grid and lines."""
    on.set_title(title, loc="left", fontweight="bold", color=INK[0], fontsize=10)
    on.grid(visible=True, which="major", color=GRID[0], linewidth=0.6)
    on.set_axisbelow(True)
    on.spines[["top", "right"]].set_visible(False)
    on.spines[["left", "bottom"]].set_color(MUTED[0])
    on.tick_params(colors=INK[0], which="both")


def with_legend(figure: "Figure") -> bytes:
    """The picture with one legend, below, of all that its panels name, in as many columns as there is room for."""
    entries = {}
    for on in figure.axes:
        for handle, name in zip(*on.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    for columns in range(_MOST_COLUMNS, 0, -1):
        legend = figure.legend(
            [*entries.values()], [*entries], loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK[0]
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _with_clips_numbered(file.getvalue())


def _with_clips_numbered(svg: bytes) -> bytes:
    """Names of clip paths by the order in which they come.

    They are hashes of their bounds, whose last bits the layout's solver leaves to chance.
    """
    names = dict.fromkeys(re.findall(rb"url\(#(p[0-9a-f]{10})\)", svg))
    numbers = {name: b"clip%d" % number for number, name in enumerate(names, 1)}
    return re.sub(rb"\bp[0-9a-f]{10}\b", lambda found: numbers.get(found[0], found[0]), svg)
