"""How a step grows over devices as a picture: a panel for each arm and mode, a line for each way to share its layer."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.documents.networks import newest_curve
from benchmarks.documents.svg import MARKERS, framed, same_everywhere, sheet, with_legend
from membench.report.palette import INK, STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "scale_out.svg"
_PANEL_HEIGHT, _AROUND = 2.1, 0.9  # inches
_STEP: dict[str, Any] = {"linewidth": 1.5, "markersize": 3.5}
_COMMUNICATION: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (3, 2))}
_COMPUTATION: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (1, 1.5))}


def scale_picture(paths: Iterable[Path]) -> bytes | None:
    """The picture as SVG, of the newest curve; None where no file says communication apart."""
    curve = [each for each in newest_curve(paths) if _points(each)]
    if not curve:
        return None
    arms, modes, layouts = (list(dict.fromkeys(each[key] for each in curve)) for key in ("arm", "mode", "layout"))
    looks = {layout: _look(number) for number, layout in enumerate(layouts)}
    with same_everywhere():
        figure = sheet(len(arms) * _PANEL_HEIGHT + _AROUND)
        axes = figure.subplots(len(arms), len(modes), squeeze=False, sharex=True)
        for arm, row in zip(arms, axes, strict=True):
            for mode, on in zip(modes, row, strict=True):
                framed(on, f"{arm}, {mode}")
                _draw(on, [each for each in curve if (each["arm"], each["mode"]) == (arm, mode)], looks)
            row[0].set_ylabel("predicted ms", color=INK[0])
        for on in axes[-1]:
            on.set_xlabel("devices", color=INK[0])
        _name_lines(axes[0][0])
        return with_legend(figure)


def _points(each: Mapping[str, Any]) -> list[tuple[int, float, float]]:
    """(devices, ms of the step, of them communication), where both are known."""
    sent = each.get("communication_ms", {})
    found = [(int(count), step, sent.get(count)) for count, step in each["step_ms"].items()]
    return sorted(point for point in found if None not in point)


def _look(number: int) -> dict[str, Any]:
    markers = list(MARKERS.values())
    return {"color": STAGES[number % len(STAGES)], "marker": markers[number % len(markers)]}


def _draw(on: "Axes", curve: Sequence[Mapping[str, Any]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    on.set_xscale("log", base=2)
    on.set_yscale("log")
    for each in curve:
        devices, steps, sent = zip(*_points(each), strict=True)
        look = looks[each["layout"]]
        on.plot(devices, steps, label=each["layout"], **look, **_STEP)
        computed = [step - communication for step, communication in zip(steps, sent, strict=True)]
        for values, line in ((sent, _COMMUNICATION), (computed, _COMPUTATION)):
            if any(values):  # a logarithmic axis has no zero
                on.plot(devices, values, color=look["color"], **line)
    on.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    on.xaxis.set_minor_formatter(NullFormatter())
    on.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    on.yaxis.set_minor_formatter(NullFormatter())


def _name_lines(on: "Axes") -> None:
    """What the kinds of lines are, for the legend."""
    for name, line in (("communication", _COMMUNICATION), ("computation", _COMPUTATION)):
        on.plot([], [], color=INK[0], label=name, **line)
