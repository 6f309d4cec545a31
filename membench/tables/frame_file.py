"""A frame as what a file holds: CSV, which every program opens, or Parquet, which keeps the types of columns."""

from typing import TYPE_CHECKING

from membench.errors import UsageError
from membench.tables.cases import raw_table
from membench.tables.render import to_csv

if TYPE_CHECKING:
    from pandas import DataFrame


def csv_text(frame: "DataFrame") -> str:
    """One table under one header; unknown is empty, and no cell is one that a spreadsheet computes."""
    return to_csv(raw_table(frame))


def parquet_bytes(frame: "DataFrame") -> bytes:
    """The frame as a Parquet file. ``check_parquet`` says beforehand whether it can be made."""
    return frame.to_parquet(engine="pyarrow", index=False)


def check_parquet(source: str) -> None:
    """Refuses Parquet where what writes it is missing.

    Raises:
        UsageError: pyarrow cannot be imported; ``source`` is the option that asks for it.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - whether it can be
    except ImportError as error:
        problem = f"Parquet is written by pyarrow, which cannot be imported ({error}): pip install 'membench[parquet]'"
        raise UsageError(problem, source=source) from None
