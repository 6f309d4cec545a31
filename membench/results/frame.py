"""Result files as pandas frames: a row a case, a round or a sample, every column of the type that its values have.

pandas is imported when a frame is asked for: nobody else waits for it.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from membench.errors import UsageError, shown, suggestion
from membench.json_values import text
from membench.learning.curve import Point
from membench.results.answers import places_of
from membench.results.column_types import column_type
from membench.results.derived import with_derived
from membench.results.named_files import Named, results_named
from membench.results.records import ResultFile, Round
from membench.results.rows import Cells, FiledRecord, case_row, nothing, point_row, round_row, sample_row

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Per = Literal["case", "round", "sample", "point"]

_DTYPES = {"text": "string", "count": "Int64", "number": "float64", "flag": "boolean"}
_NO_POINT = Point(step=0, tokens=0.0, flops=0.0, seconds=0.0, learning_rate=0.0)
_NO_ROUND = Round(number=0, started="", status="skipped")


def read_results(paths: Named | Iterable[Named], per: Per = "case") -> "DataFrame":
    """Result files of ``membench run`` as one frame, in the order of their runs.

    Unknown is missing (NaN, NA, NaT), never 0. Names are those of the records and carry their units.

    Args:
        paths: a file, a pattern as in ``"results/*.json"``, or several of either. JSON of another make that a
            pattern matches is passed over with a warning.
        per: what a row is: a ``case`` with its counts and metrics, a ``round`` (one process) with all that it
            recorded, a ``sample`` with its seconds, or a ``point`` of a training curve.

    Raises:
        UsageError: nothing matches, a file is no result, or ``per`` is none of these.
    """
    if per not in get_args(Per):
        raise UsageError(f"{shown(per)} is no kind of row; {suggestion(per, get_args(Per))}", key="per")
    return results_frame(results_named(paths), per)


def results_frame(results: Iterable[tuple[str | None, ResultFile]], per: Per = "case") -> "DataFrame":
    """The same of results that were read before, each with the name of its file."""
    results = [(file, with_derived(result)) for file, result in results]
    if per == "case":
        placed = [(file, result, places_of(result)) for file, result in results]
        rows = [case_row(FiledRecord(f, r, each, where.get(each.id))) for f, r, where in placed for each in r.cases]
        return _frame(rows, case_row(nothing()))
    cases = [FiledRecord(file, result, record) for file, result in results for record in result.cases]
    rounds = [(case, found) for case in cases for found in case.record.rounds]
    if per == "sample":
        return _samples(rounds)
    if per == "point":
        points = [point_row(case, found, point) for case, found in rounds for point in found.curve]
        return _frame(points, point_row(nothing(), _NO_ROUND, _NO_POINT))
    return _frame([round_row(*each) for each in rounds], round_row(nothing(), _NO_ROUND))


def _samples(rounds: Sequence[tuple[FiledRecord, Round]]) -> "DataFrame":
    """A row a sample: those with a warm L2 after the others of their round."""
    import numpy as np

    taken = []
    for case, found in rounds:
        taken.append((sample_row(case, found, text(found.sampling, "cache")), found.samples_s))
        taken.append((sample_row(case, found, "hot"), found.hot_samples_s or []))
    counts = [len(seconds) for _, seconds in taken]
    frame = _frame([row for row, _ in taken], sample_row(nothing(), _NO_ROUND, None))
    frame = frame.loc[np.repeat(frame.index, counts)].reset_index(drop=True)
    seconds = [second for _, of in taken for second in of]
    numbers = [number for count in counts for number in range(count)]
    after = frame.columns.get_loc("round") + 1
    frame.insert(after, "sample", _column("sample", numbers))
    frame.insert(after + 1, "seconds", _column("seconds", seconds))
    return frame


def _frame(rows: Sequence[Sequence[Cells]], empty: Sequence[Cells]) -> "DataFrame":
    """Rows under all their names, those of one group side by side; without any, under those of ``empty``."""
    import pandas as pd

    groups = zip(*(rows or [empty]), strict=True)
    names = dict.fromkeys(name for of_rows in groups for group in of_rows for name in group)
    merged = [{name: value for group in row for name, value in group.items()} for row in rows]
    return pd.DataFrame({_writable(name): _column(name, [row.get(name) for row in merged]) for name in names})


def _column(name: str, values: list[Any]) -> "Series":
    """Values as what they are."""
    import pandas as pd

    kind = column_type(name, values)
    if kind == "text":
        values = [None if value is None else _writable(str(value)) for value in values]
    if kind == "time":  # text that is no time is missing
        return pd.Series(pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601").as_unit("us"))
    return pd.Series(values, dtype=_DTYPES[kind])


def _writable(text: str) -> str:
    """Text that every table's file can hold: half a character, which JSON may have, is a question mark."""
    return text.encode("utf-8", "replace").decode()
