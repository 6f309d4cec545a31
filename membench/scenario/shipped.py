"""Where scenarios are: a path, or the name of one that is shipped."""

from contextlib import suppress
from pathlib import Path

from membench.errors import UsageError, shown, suggestion
from membench.yaml_files.reader import read_text

_PACKAGE = Path(__file__).parent.parent
SUFFIXES = (".yaml", ".yml")


def shipped_directory() -> Path:
    """The scenarios inside the installed package, else those of the source tree."""
    inside = _PACKAGE / "scenarios"
    return inside if inside.is_dir() else _PACKAGE.parent / "scenarios"


def list_scenarios() -> list[tuple[str, str]]:
    """Each shipped scenario's name and the question that its header comment asks."""
    return [(path.stem, _question(path)) for path in sorted(shipped_directory().glob("*.yaml"))]


def find_scenario(name_or_path: str) -> Path:
    """The file of a shipped scenario's name, or the path that was given.

    Raises:
        UsageError: a bare word that names neither a shipped scenario nor a file.
    """
    path = Path(name_or_path)
    bare = path.name == name_or_path and path.suffix not in SUFFIXES
    if not bare:
        return path
    shipped = {file.stem: file for file in shipped_directory().glob("*.yaml")}
    if name_or_path in shipped:
        return shipped[name_or_path]
    with suppress(OSError):  # a name too long for the file system is no file
        if name_or_path and path.exists():
            return path
    raise UsageError(f"no scenario has this name; {suggestion(name_or_path, shipped)}", source=shown(name_or_path))


def source_name(source: str) -> str:
    """What a result file calls a scenario's file: the bare name of a shipped one, else the path as given."""
    path = Path(source)
    return path.stem if path.parent == shipped_directory() else source


def _question(path: Path) -> str:
    """The first paragraph of the comment that opens the file."""
    lines = []
    for line in read_text(path).splitlines():
        comment = line.removeprefix("#").strip()
        if not line.startswith("#") or not comment:
            break
        lines.append(comment)
    return " ".join(lines)
