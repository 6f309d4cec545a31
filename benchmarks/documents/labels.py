"""Short names of a run's points: what all of them share is said once, a stretch of an axis by its two ends."""

from collections.abc import Sequence

from benchmarks.standings import Point

_STRETCH = 3  # points in a row that are named by the first and the last


def in_order(points: Sequence[Point]) -> list[Point]:
    """Points of one mode side by side, else as the run had them."""
    modes = list(dict.fromkeys(_parts(point)[0] for point in points))
    return sorted(points, key=lambda point: modes.index(_parts(point)[0]))


def short_labels(points: Sequence[Point], *, ranks: int) -> list[str]:
    """What tells each point from the others; of a single point its mode."""
    labels = told_apart([point.title for point in points])
    return [label if ranks > 1 else label.replace(" a rank", "") for label in labels]


def told_apart(titles: Sequence[str]) -> list[str]:
    """Of each title the parts that not all have; where there are none, its first."""
    parts = [title.split(", ") for title in titles]
    told = {part for of in parts for part in of if any(part not in other for other in parts)}
    return [", ".join(part for part in of if part in told) or of[0] for of in parts]


def stretches(chosen: Sequence[int], points: Sequence[Point], labels: Sequence[str]) -> str:
    """The labels of some points, at most the two ends of each stretch of one mode."""
    runs: list[list[int]] = []
    for index in chosen:
        joins = runs and runs[-1][-1] == index - 1 and _parts(points[index])[0] == _parts(points[index - 1])[0]
        if joins:
            runs[-1].append(index)
        else:
            runs.append([index])
    named = []
    for run in runs:
        ends = [f"{labels[run[0]]} to {labels[run[-1]]}"] if len(run) >= _STRETCH else [labels[i] for i in run]
        named += ends
    return "; ".join(named)


def _parts(point: Point) -> list[str]:
    return point.title.split(", ")
