"""The value of ``--output``: a folder; each command chooses the names of its files there.

``report`` writes one file and also accepts that file's name. A value that ends like a file name is not taken as a
folder.
"""

from contextlib import suppress
from pathlib import Path

from membench.errors import UsageError

PAGE_NAME = "report.html"
_PAGES = (".html", ".htm")
_FILES = (*_PAGES, ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".md", ".txt", ".yaml", ".yml", ".xml")


def checked_folder(output: Path) -> Path:
    """The folder; it need not exist yet.

    Raises:
        UsageError: it is a file, or it does not exist and ends like a file name.
    """
    if _is_file(output):
        raise UsageError(f"{output} is a file; name a folder for result files", source="--output")
    if output.suffix.lower() in _FILES and not _is_folder(output):
        problem = f"{output} ends like a file name; name a folder for result files (membench chooses their names)"
        raise UsageError(problem, source="--output")
    return output


def page_path(output: Path) -> Path:
    """The path of the page: the file that is named, or ``report.html`` in the named folder.

    Raises:
        UsageError: the name is that of another kind of file, or the folder cannot be made.
    """
    if output.suffix.lower() in _PAGES:
        return output
    if _is_file(output) or (output.suffix.lower() in _FILES and not _is_folder(output)):
        problem = f"{output} cannot be the name of a page; name a file that ends in .html, or a folder"
        raise UsageError(problem, source="--output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be made ({reason})", source=f"--output {output}") from None
    return output / PAGE_NAME


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # if it cannot be read, writing will report it
        return path.is_dir()
    return False


def _is_file(path: Path) -> bool:
    with suppress(OSError):
        return path.exists() and not path.is_dir()
    return False
