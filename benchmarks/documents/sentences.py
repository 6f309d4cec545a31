"""The answer of a run in sentences, made of what holds: who is told apart from whom, at which points, by how much."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.documents.labels import in_order, short_labels, stretches
from benchmarks.standings import Point, Standing, points_of
from membench.json_values import number
from membench.results.following import own_key
from membench.results.ranking import own_sizes, step_name
from membench.results.records import ResultFile
from membench.tables.numbers import percent, short

_ONE_BY_ONE = 3  # so many points have a sentence each


def answer_sentences(result: ResultFile) -> list[str]:
    """The answer, a sentence each; of a run whose rounds are too few for an order, that this is so."""
    points = in_order(points_of(result))
    if not points:
        return ["Nothing was measured."]
    reasons = {point.no_order for point in points}
    if len(reasons) == 1 and None not in reasons:
        return [f"No order is known: {reasons.pop()}."]
    labels = short_labels(points, ranks=result.run.ranks)
    ranking = _each(points, labels) if len(points) <= _ONE_BY_ONE else _grouped(points, labels)
    return [*ranking, *_growth(points, labels), *_utilization(result)]


def named(arms: Iterable[str]) -> str:
    """``a``, `b` and `c`."""
    *before, last = [f"`{arm}`" for arm in arms]
    return f"{', '.join(before)} and {last}" if before else last


def times(point: Point, slower: Standing, faster: Standing) -> str:
    """``1.86 times (1.7 to 2.0)``: how much longer the one takes, with the interval over the rounds of both."""
    shown, interval = f"{short(slower.step_ms / faster.step_ms)} times", point.times(slower, faster)
    return shown if interval is None else f"{shown} ({short(interval[0])} to {short(interval[1])})"


def _each(points: Sequence[Point], labels: Sequence[str]) -> Iterator[str]:
    for point, label in zip(points, labels, strict=True):
        leaders = point.leaders
        if not leaders:
            yield f"{label}: no order is known ({point.no_order})."
            continue
        if len(leaders) == 1:
            told = f"`{leaders[0].arm}` is the fastest with {_step(leaders[0])}"
        else:
            told = f"{named(each.arm for each in leaders)} are not told apart as the fastest ({_steps(leaders)})"
        others = [_takes(point, each) for each in _beside(point)]
        yield f"{label}: {'; '.join([told, *others])}.{_at_dense_flops(point)}"


def _at_dense_flops(point: Point) -> str:
    """Who may be first at equal FLOPs, where the fastest of all does others."""
    arms = point.at_dense_flops
    if not arms or {each.arm for each in point.leaders} <= set(arms):
        return ""
    known = f"{named(arms)} are not told apart as the fastest" if len(arms) > 1 else f"{named(arms)} is the fastest"
    return f" Of the arms with dense's FLOPs {known}."


def _grouped(points: Sequence[Point], labels: Sequence[str]) -> Iterator[str]:
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, point in enumerate(points):
        groups[tuple(sorted(each.arm for each in point.leaders))].append(index)
    for arms, chosen in sorted(groups.items(), key=lambda each: (not each[0], -len(each[1]))):
        where = f"{len(chosen)} of {len(points)} points ({stretches(chosen, points, labels)})"
        if not arms:
            why = dict.fromkeys(points[index].no_order or "" for index in chosen)
            yield f"No order is known at {where}: {', '.join(why)}."
        elif len(arms) == 1:
            yield f"`{arms[0]}` is the fastest at {where}{_factors([points[index] for index in chosen])}."
        else:
            yield f"{named(arms)} are not told apart as the fastest at {where}."


def _factors(points: Sequence[Point]) -> str:
    """How much longer the next one takes, at points that one arm leads."""
    found = []
    for point in points:
        others = [each.step_ms for each in point.standings if each.place_low != 1]
        found += [others[0] / point.leaders[0].step_ms] if others else []
    if not found:
        return ""
    low, high = short(min(found)), short(max(found))
    return f": the next takes {low if low == high else f'{low} to {high}'} times as long"


def _beside(point: Point) -> list[Standing]:
    """Who is named beside the leaders: the next one, and the layer that others are held against."""
    others = [each for each in point.standings if each.place_low != 1]
    yardstick = [each for each in others[1:] if each.record.case.layer.is_yardstick]
    return [*others[:1], *yardstick[:1]]


def _takes(point: Point, standing: Standing) -> str:
    leader = point.leaders[0]
    return f"`{standing.arm}` takes {times(point, standing, leader)} as long as `{leader.arm}`"


def _step(standing: Standing) -> str:
    interval = f" ({short(standing.low_ms)} to {short(standing.high_ms)})" if standing.low_ms else ""
    return f"{short(standing.step_ms)} ms{interval}"


def _steps(standings: Sequence[Standing]) -> str:
    return f"{', '.join(short(each.step_ms) for each in standings)} ms"


def _growth(points: Sequence[Point], labels: Sequence[str]) -> Iterator[str]:
    """How an arm's step grows along a key that is swept on it alone."""
    for point, label in zip(points, labels, strict=True):
        arms: dict[str, list[Standing]] = defaultdict(list)
        for each in point.standings:
            if each.arm != each.record.case.arm:
                arms[each.record.case.arm].append(each)
        for arm, sizes in arms.items():
            keys = [key for key in sizes[0].record.point if own_key(arm, key) is not None]
            if len(keys) != 1 or len({swept_value(each, keys[0]) for each in sizes}) < 2:
                continue
            ordered = sorted(sizes, key=lambda each: swept_value(each, keys[0]))
            ends = f"{ordered[0].arm.removeprefix(arm).strip()} to {swept_shown(ordered[-1], keys[0])}"
            grown = f"from {_step(ordered[0])} to {_step(ordered[-1])}"
            yield f"{label}: from {ends} `{arm}` goes {grown}, {times(point, ordered[-1], ordered[0])} as long."


def swept_value(standing: Standing, key: str) -> float:
    """The layer's own number under a key that is swept, however the scenario writes it."""
    return number(own_sizes(standing.record), key.rsplit(".", 1)[1]) or 0.0


def swept_shown(standing: Standing, key: str) -> str:
    return str(standing.record.point[key])


def _utilization(result: ResultFile) -> Iterator[str]:
    """Where every arm is dense the question is how near they come to the products' ceiling."""
    if any(record.case.layer.kind != "dense" for record in result.cases):
        return
    for record in result.cases:
        mfu = record.metrics.get("mfu")
        if mfu is not None:
            yield f"`{record.case.arm}` {step_name(record)} reaches {percent(mfu)} of the matmul ceiling."
