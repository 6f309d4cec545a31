"""The value of ``--output``: a folder, in which what a command writes gets a name of its own.

``report``, which writes one file, takes that file's name too. What ends as files do is no folder.
"""

from contextlib import suppress
from pathlib import Path

from membench.errors import UsageError

PAGE_NAME = "report.html"
_PAGES = (".html", ".htm")
_FILES = (*_PAGES, ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".md", ".txt", ".yaml", ".yml", ".xml")


def checked_folder(output: Path) -> Path:
    """The folder, which need not be there yet.

    Raises:
        UsageError: it is a file, or is not there and ends as files do.
    """
    if _is_file(output):
        raise UsageError(f"{output} is a file; name the folder in which result files go", source="--output")
    if output.suffix.lower() in _FILES and not _is_folder(output):
        problem = f"{output} ends as a file does; name the folder in which result files go (each names itself)"
        raise UsageError(problem, source="--output")
    return output


def page_path(output: Path) -> Path:
    """The page: the file that is named, or ``report.html`` in the folder.

    Raises:
        UsageError: it is named as another kind of file, or the folder cannot be made.
    """
    if output.suffix.lower() in _PAGES:
        return output
    if _is_file(output) or (output.suffix.lower() in _FILES and not _is_folder(output)):
        problem = f"{output} is no name for a page; give one that ends in .html, or a folder"
        raise UsageError(problem, source="--output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be made ({reason})", source=f"--output {output}") from None
    return output / PAGE_NAME


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # what cannot be looked at is found out when it is written
        return path.is_dir()
    return False


def _is_file(path: Path) -> bool:
    with suppress(OSError):
        return path.exists() and not path.is_dir()
    return False
