"""Every case of some runs as one table of raw values under the names that records have: what CSV and a page hold."""

from typing import TYPE_CHECKING, Any

from membench.tables.table import Column, Table, plain

if TYPE_CHECKING:
    from pandas import DataFrame, Series


def raw_table(frame: "DataFrame") -> Table:
    """The rows of ``results_frame``. Names carry their units, and values are in them; what is missing is None."""
    columns = [_column(name, series) for name, series in frame.items()]
    values = [_values(series) for _, series in frame.items()]
    return Table("", "", columns, list(zip(*values, strict=True)))


def _column(name: Any, series: "Series") -> Column:
    kind = series.dtype.kind
    return Column(name, four_digits if kind == "f" else plain, right=kind in "if")


def _values(series: "Series") -> list[Any]:
    """Values as Python's own; times as records write them."""
    if series.dtype.kind == "M":
        series = series.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return series.astype(object).where(series.notna(), None).tolist()


def four_digits(value: float | None) -> str:
    """A number of any size in at most four digits."""
    return plain(value) if value is None else f"{value:.4g}"
