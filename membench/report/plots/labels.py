"""Names beside points, so placed that each can be read, on a desk's screen and on a phone's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from membench.report.palette import INK, LEADER, PAPER
from membench.report.plots.frame import FONT_PX, LINE_PX, fraction, on_axis, safe
from membench.report.plots.spread import spread

_SHIFT_PX = 16  # from a point to its name, on a desk; less where it is narrower
_MARK_PX = 6  # half a marker
_COLUMN = 0.033  # of the width, from the outermost of crowded points to the column of their names
_APART = 0.16  # of the width: points further apart than this share no column


@dataclass(frozen=True, slots=True)
class Named:
    """A point of a plot and what is written beside it."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class _Screen:
    """What a plot is assumed to be shown on; its height is exact."""

    width: float  # of the plotting area, in pixels
    right: float  # of the whole plot
    char: float  # width of one
    most_chars: int

    def width_of(self, name: str) -> float:
        return self.char * min(len(name), self.most_chars)


_DESK = _Screen(900, 920, 6.4, 100)
_PHONE = _Screen(290, 310, 5.8, 20)
_SCREENS = (_DESK, _PHONE)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a name stands: its near edge as a share of the width, and pixels from below."""

    edge: float
    y: float
    to_right: bool

    def span(self, name: str, screen: _Screen) -> tuple[float, float]:
        """Where the name begins and ends, in pixels."""
        at, width = self.edge * screen.width, screen.width_of(name)
        return (at, at + width) if self.to_right else (at - width, at)

    def fits(self, name: str) -> bool:
        """Whether the name is all on every screen."""
        spans = [(self.span(name, screen), screen) for screen in _SCREENS]
        return all(left >= 0 and right <= screen.right for (left, right), screen in spans)


@dataclass(frozen=True, slots=True)
class _Spot:
    """A point by where it lies: x as a share of the width, y in pixels from below."""

    name: str
    x: float
    y: float

    def beside(self, to_right: bool) -> _Place:
        shift = _SHIFT_PX / _DESK.width
        return _Place(self.x + (shift if to_right else -shift), self.y, to_right)

    def hides_mark(self, place: _Place, other: "_Spot") -> bool:
        """Whether this name in its place would lie on the other's mark, on some screen."""
        near = abs(place.y - other.y) < LINE_PX / 2 + _MARK_PX
        spans = [(place.span(self.name, screen), other.x * screen.width) for screen in _SCREENS]
        return near and any(left < mark + _MARK_PX and mark - _MARK_PX < right for (left, right), mark in spans)

    def hides_name(self, place: _Place, other: "_Spot", others: _Place) -> bool:
        """Whether this name would lie on the other's."""
        if abs(place.y - others.y) >= LINE_PX:
            return False
        spans = [(place.span(self.name, screen), others.span(other.name, screen)) for screen in _SCREENS]
        return any(a[0] < b[1] and b[0] < a[1] for a, b in spans)


def beside(
    points: Sequence[Named], x_axis: dict[str, Any], y_axis: dict[str, Any], height: int
) -> list[dict[str, Any]]:
    """An annotation for each point: right beside it, or where that would hide something, in a column with leaders.

    Args:
        points: what to name.
        x_axis: of the plot, with its range.
        y_axis: the same.
        height: of the plotting area, in pixels.
    """
    spots = [_Spot(safe(p.name), fraction(x_axis, p.x), height * fraction(y_axis, p.y)) for p in points]
    placed = _places(spots, height)
    return [
        {
            "text": spot.name,
            "x": on_axis(x_axis, point.x),
            "y": on_axis(y_axis, point.y),
            "axref": "x",
            "ayref": "y",
            "ax": _at(x_axis, place.edge),
            "ay": _at(y_axis, place.y / height),
            "xanchor": "left" if place.to_right else "right",
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 1,
            "arrowcolor": LEADER[0],
            "standoff": 5,
            "borderpad": 0,
            "bgcolor": PAPER[0],
            "font": {"size": FONT_PX - 1, "color": INK[0]},
            "name": "point",
        }
        for point, spot, place in zip(points, spots, placed, strict=True)
    ]


def _places(spots: Sequence[_Spot], height: int) -> list[_Place]:
    """Each name's place: those of a crowd in a column, the others right beside their points."""
    places: dict[int, _Place] = {}
    for i, spot in enumerate(spots):
        for place in (spot.beside(True), spot.beside(False)):
            on_mark = any(spot.hides_mark(place, other) for j, other in enumerate(spots) if j != i)
            on_name = any(spot.hides_name(place, spots[j], taken) for j, taken in places.items())
            if place.fits(spot.name) and not on_mark and not on_name:
                places[i] = place
                break
    for cluster in _clusters(spots):
        if any(i not in places for i in cluster):
            places |= _column(spots, cluster, height)
    return [places[i] for i in range(len(spots))]


def _clusters(spots: Sequence[_Spot]) -> list[list[int]]:
    """Those that lie near each other from left to right, by their number."""
    clusters: list[list[int]] = []
    for i in sorted(range(len(spots)), key=lambda i: spots[i].x):
        if clusters and spots[i].x - spots[clusters[-1][-1]].x < _APART:
            clusters[-1].append(i)
        else:
            clusters.append([i])
    return clusters


def _column(spots: Sequence[_Spot], cluster: Sequence[int], height: int) -> dict[int, _Place]:
    """Places in a column to the right of the points, or to their left where they fit there alone."""
    longest = max((spots[i].name for i in cluster), key=len)
    right = _Place(spots[cluster[-1]].x + _COLUMN, 0.0, to_right=True)
    left = _Place(spots[cluster[0]].x - _COLUMN, 0.0, to_right=False)
    side = left if left.fits(longest) and not right.fits(longest) else right
    ys = spread([spots[i].y for i in cluster], LINE_PX, LINE_PX / 2, height - LINE_PX / 2)
    return {i: _Place(side.edge, y, side.to_right) for i, y in zip(cluster, ys, strict=True)}


def _at(axis: dict[str, Any], share: float) -> float:
    """The coordinate at a share of an axis's length."""
    low, high = axis["range"]
    return low + share * (high - low)
