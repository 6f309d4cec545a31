"""The times of a run as Markdown tables."""

from collections.abc import Iterable, Sequence

from benchmarks.documents.labels import in_order, short_labels
from benchmarks.standings import Point, Standing, points_of
from membench.json_values import number
from membench.results.columns import QUANTITIES
from membench.results.ranking import arm_name, counted, step_name, swept
from membench.results.records import Record, ResultFile
from membench.tables.numbers import interval, percent, places, three
from membench.tables.quantity import quantity

_TABLES_OF_ARMS = 2  # of more points there is one table, a row a point


def times_tables(result: ResultFile) -> list[str]:
    """A table of all arms for each point; of many points one with a row a point."""
    points = in_order(points_of(result))
    if not points:
        return []
    labels = short_labels(points, ranks=result.run.ranks)
    if len(points) <= _TABLES_OF_ARMS:
        return [f"**{label}**\n\n{arms_table(point, result)}" for label, point in zip(labels, points, strict=True)]
    return [points_table(points, labels)]


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table whose first columns, ``left`` of them, are words; the others are numbers."""
    rule = ["---"] * left + ["--:"] * (len(headers) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [headers, rule, *rows])


def arms_table(point: Point, result: ResultFile) -> str:
    """Every arm at one point, by its place; in the scenario's order where there are no places."""
    order = list(dict.fromkeys(record.case.arm for record in result.cases))
    standings = point.standings
    if not point.leaders:
        standings = sorted(standings, key=lambda each: order.index(each.record.case.arm))
    spread = any(each.communication_ms for each in standings)
    names = ("params", "flops_per_token", "floor_ms", "over_floor", "mfu", "mbu")
    params, flops, floor, over_floor, mfu, mbu = (quantity(name, aligned=True) for name in names)
    headers = ["arm", QUANTITIES["place"].heading, params.header, flops.header]
    headers += [QUANTITIES["step_ms"].heading, QUANTITIES["step_ms_interval"].heading]
    headers += ["of it comm"] * spread + [floor.header, over_floor.header, mfu.header, mbu.header]
    rows = [
        [
            each.arm,
            places((each.place_low, each.place_high)),
            params.shown(counted(each.record, "params")),
            flops.shown(each.record.achieved.get("flops_per_token")),
            three(each.step_ms),
            interval((each.low_ms, each.high_ms)),
            *([three(each.communication_ms)] if spread else []),
            floor.shown(each.floor_ms),
            over_floor.shown(each.over_floor),
            percent(each.record.metrics.get("mfu")),
            percent(each.record.metrics.get("mbu")),
        ]
        for each in standings
    ]
    return markdown_table(headers, [*rows, *([arm, *["-"] * (len(headers) - 1)] for arm in point.failed)], left=1)


def points_table(points: Sequence[Point], labels: Sequence[str]) -> str:
    """A row a point, a column an arm: the step with its interval, in bold where nobody is told to be faster."""
    arms = list(dict.fromkeys(each.arm for point in points for each in point.standings))
    rows = []
    for point, label in zip(points, labels, strict=True):
        of = {each.arm: each for each in point.standings}
        rows.append([label, *(_cell(of.get(arm)) for arm in arms)])
    return markdown_table([f"{QUANTITIES['step_ms'].heading}, at", *arms], rows, left=1)


def sizes_tables(result: ResultFile) -> list[str]:
    """What arms store, and what memory a step of each mode needs: beside a table of times that has no room for it."""
    if len(points_of(result)) <= _TABLES_OF_ARMS or any(record.case.level == "op" for record in result.cases):
        return []
    measured = [record for record in result.cases if record.status == "ok"]
    steps = list(dict.fromkeys(step_name(record) for record in measured))
    sizes = [quantity(name, aligned=True) for name in ("params", "flops_per_token", "stored_bytes")]
    rows = []
    for name, of in _by_size(measured).items():
        values = counted(of[0], "params"), of[0].achieved.get("flops_per_token"), counted(of[0], "stored_bytes")
        needed = [_most(_needed_bytes(r) for r in of if step_name(r) == step) for step in steps]
        shown = [column.shown(value) for column, value in zip(sizes, values, strict=True)]
        rows.append([name, *shown, *(sizes[-1].shown(value) for value in needed)])
    headers = ["arm", *(column.header for column in sizes), *(f"GB in {step}" for step in steps)]
    return [markdown_table(headers, rows, left=1)]


def _by_size(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Those of each arm; where it has several sizes, of each, with what was swept in its name."""
    arms: dict[str, dict[float | None, list[Record]]] = {}
    for record in records:
        arms.setdefault(arm_name(record), {}).setdefault(counted(record, "params"), []).append(record)
    found = {}
    for arm, sizes in arms.items():
        for of in sizes.values():
            found[arm if len(sizes) == 1 else f"{arm}, {swept(of[0])}"] = of
    return found


def _needed_bytes(record: Record) -> float | None:
    """What a step needs; None where a part of it is not known."""
    names = ("weights_bytes", "gradient_bytes", "optimizer_bytes", "saved_activation_bytes")
    parts = [number(record.metrics, name) for name in names]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _most(values: Iterable[float | None]) -> float | None:
    """The largest; None where one is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return max(known) if known and len(known) == len(found) else None


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return "-"
    shown = three(standing.step_ms)
    shown = f"**{shown}**" if standing.place_low == 1 else shown
    return shown if standing.low_ms is None else f"{shown} ({interval((standing.low_ms, standing.high_ms))})"
