"""What was measured of collectives, beside what the fitted model predicts."""

from typing import Any

from membench.layers.spec.quantities import format_quantity
from membench.tables.numbers import share, short
from membench.tables.table import Column, Table
from membench.words import how_many


def network_tables(found: dict[str, Any]) -> list[Table]:
    """Of a file that ``membench doctor --nproc`` keeps: the fitted lines, and how well they predict."""
    return [_lines(found), _sizes(found)]


def within(found: dict[str, Any], margin: float) -> tuple[int, int]:
    """(sizes that are left out of the fit and predicted within a margin, all that are left out)."""
    errors = [_error(size) for of in found["collectives"].values() for size in of["sizes"] if not size["fitted"]]
    return sum(abs(error) <= margin for error in errors), len(errors)


def _error(size: dict[str, Any]) -> float:
    return size["predicted_s"] / size["measured_s"] - 1


def _lines(found: dict[str, Any]) -> Table:
    columns = [
        Column("collective", right=False),
        *(Column(f"{which}{what}", short) for which in ("", "large: ") for what in ("µs a message", "GB/s a rank")),
    ]
    rows = []
    for kind, of in found["collectives"].items():
        cells = [(1e6 * line["alpha_s"], line["bytes_per_s"] / 1e9) for line in of["lines"]]
        rows.append([kind, *(value for pair in cells for value in pair)])
    caption = (
        "A line is so long for each message of a rank and for each byte it sends; the longer of both lines counts."
    )
    return Table(
        f"{found['backend']} between {how_many(found['ranks'], 'rank')} of one machine", caption, columns, rows
    )


def _sizes(found: dict[str, Any]) -> Table:
    columns = [
        Column("collective", right=False),
        Column("bytes", format_quantity),
        Column("measured µs", short),
        Column("predicted µs", short),
        Column("off by", share),
        Column("", right=False),
    ]
    rows = [
        [
            kind,
            size["payload_bytes"],
            1e6 * size["measured_s"],
            1e6 * size["predicted_s"],
            _error(size),
            "fitted" if size["fitted"] else "",
        ]
        for kind, of in found["collectives"].items()
        for size in of["sizes"]
    ]
    good, checked = within(found, 0.25)
    caption = (
        f"The slowest rank's calls, of which a tenth are faster. {good} of {checked} sizes that were left out of the "
        "fit are predicted within 25 %."
    )
    return Table("Measured and predicted", caption, columns, rows)
