"""Documents of text files, JSONL and Parquet, and the text that every CPython ships."""

import sys
from collections.abc import Iterator
from pathlib import PurePath

from membench.errors import UsageError, shown
from membench.training.data_files.lines import lines, objects, opened, text_in

BETWEEN = "\n\n"
"""What documents are joined by."""
PYTHON_TEXT = f"pydoc_data.topics of Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
"""The name of the text that is read where no file is stated. Its words differ from version to version."""
_PART_CHARS = 2**13


def documents_of(files: tuple[str, ...], column: str) -> Iterator[str]:
    """The text of files in parts of some 8 KiB, which end where a line or a document ends.

    Args:
        files: .txt, .jsonl or .parquet; none: the help texts of Python, in the order of their names.
        column: of JSONL and Parquet files.

    Raises:
        UsageError: a file cannot be read as what its name says.
    """
    pieces = (piece for file in files for piece in _READERS[PurePath(file).suffix](file, column))
    held: list[str] = []
    size = 0
    for piece in pieces if files else _python_text():
        held.append(piece)
        size += len(piece)
        if size >= _PART_CHARS:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _python_text() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        problem = f"{PYTHON_TEXT} is not installed ({error}); name files of your own"
        raise UsageError(problem, key="files") from None
    return (topics[name] + BETWEEN for name in sorted(topics))


def _text(path: str, column: str) -> Iterator[str]:
    del column
    yield from (line for _, line in lines(path))
    yield BETWEEN


def _jsonl(path: str, column: str) -> Iterator[str]:
    found = False
    for place, each in objects(path):
        found = True
        yield text_in(each, column, path, place) + BETWEEN
    if not found:
        raise UsageError("holds no line but empty ones", source=path)


def _parquet(path: str, column: str) -> Iterator[str]:
    with opened(path) as stream:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            problem = f"Parquet is read by pyarrow, which cannot be imported ({error}): pip install 'membench[parquet]'"
            raise UsageError(problem, source=path) from None
        try:
            file = pq.ParquetFile(stream)
            known = file.schema_arrow.names
            if column not in known:
                raise UsageError(
                    f"there is no column {column!r}; columns are {', '.join(map(repr, known))}", source=path
                )
            row = 0
            for batch in file.iter_batches(columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if not isinstance(value, str):
                        raise UsageError(f"should be text, not {shown(value)}", key=f"row {row}: {column}", source=path)
                    yield value + BETWEEN
        except pa.ArrowException as error:
            raise UsageError(
                f"is no Parquet file that can be read: {str(error).splitlines()[0]}", source=path
            ) from None
    if not row:
        raise UsageError("holds no row", source=path)


_READERS = {".txt": _text, ".jsonl": _jsonl, ".parquet": _parquet}
