"""The result files that paths and patterns name."""

import glob
import warnings
from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from os.path import realpath
from pathlib import Path

from membench.errors import UsageError
from membench.results.records import ForeignFile, ResultFile, read_result
from membench.words import how_many

Named = str | PathLike[str]


def results_named(paths: Named | Iterable[Named]) -> list[tuple[str, ResultFile]]:
    """Each file once with its result, in the order of the runs.

    What a pattern matches may be JSON of another make, which is passed over with a warning; what is named by itself
    may not.

    Raises:
        UsageError: nothing matches, or a file is no result.
    """
    asked = [fspath(each) for each in ([paths] if isinstance(paths, (str, PathLike)) else paths)]
    if not asked or not all(asked):  # an empty name would be taken for the folder that we are in
        raise UsageError("no file is named; give a path, a pattern as in 'results/*.json', or a list of them")
    found: dict[str, tuple[str, ResultFile]] = {}
    foreign: list[str] = []
    for name in asked:
        for path, by_pattern in _matches(name):
            try:
                result = read_result(path)
            except ForeignFile:
                if not by_pattern:
                    raise
                foreign.append(path)
            else:
                found.setdefault(realpath(path), (path, result))
    if not found:
        raise UsageError(f"nothing that {', '.join(map(repr, asked))} matches is a result file of membench run")
    if foreign:
        which = f"{how_many(len(foreign), 'file')} without a run of membench passed over: {', '.join(foreign)}"
        warnings.warn(which, stacklevel=3)
    return sorted(found.values(), key=lambda each: each[1].run.started)


def _matches(name: str) -> Iterator[tuple[str, bool]]:
    """The paths of one name, and whether it is a pattern: a file whose own name has a bracket is a file."""
    if not glob.has_magic(name) or Path(name).exists():
        yield name, False
        return
    matched = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matched:
        raise UsageError(f"no file matches {name!r}; result files are in results/ unless --output named another folder")
    for path in matched:
        yield path, True
