"""The value of ``report --table``: a file whose ending says what it will be."""

from pathlib import Path
from typing import TYPE_CHECKING

from membench.errors import UsageError
from membench.files import blaming_output, check_writable, write_whole
from membench.tables.frame_file import check_parquet, csv_text, parquet_bytes

if TYPE_CHECKING:
    from pandas import DataFrame

_OPTION = "--table"


def check_table(path: Path) -> None:
    """Refuses, before anything is read, a table that could not be written.

    Raises:
        UsageError: the ending is neither .csv nor .parquet, pyarrow is missing, or the file cannot be written.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{path} is no name for a table; give one that ends in .csv or .parquet", source=_OPTION)
    if _is_parquet(path):
        check_parquet(_OPTION)
    check_writable(path, _OPTION)


def write_table(frame: "DataFrame", path: Path) -> None:
    """Writes the frame as the ending says.

    Raises:
        UsageError: the file cannot be written.
    """
    content = parquet_bytes(frame) if _is_parquet(path) else csv_text(frame).encode()
    with blaming_output(path, _OPTION):
        write_whole(path, content)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"
