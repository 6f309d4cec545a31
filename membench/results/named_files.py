"""The result files that paths and patterns name."""

import glob
import warnings
from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from pathlib import Path

from membench.errors import UsageError
from membench.results.records import ForeignFile, ResultFile, read_result

Named = str | PathLike[str]
_SOURCE = "read_results"


def results_named(paths: Named | Iterable[Named]) -> list[tuple[str, ResultFile]]:
    """Each file once with its result, in the order of the runs.

    What a pattern matches may be JSON of another make, which is passed over with a warning; what is named by itself
    may not.

    Raises:
        UsageError: nothing matches, or a file is no result.
    """
    asked = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    if not asked:
        raise UsageError("no file is named; give a path, a pattern or a list of them", source=_SOURCE)
    found: dict[Path, tuple[str, ResultFile]] = {}
    for name in (fspath(each) for each in asked):
        for path, by_pattern in _matches(name):
            if Path(path).resolve() in found:
                continue
            try:
                found[Path(path).resolve()] = (path, read_result(path))
            except ForeignFile as foreign:
                if not by_pattern:
                    raise
                warnings.warn(f"{foreign}; passed over", stacklevel=3)
    if not found:
        raise UsageError(f"none of the files of {', '.join(map(repr, asked))} is a result of membench run")
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
