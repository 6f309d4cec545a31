"""Where a process of ours finds code: ours first, the user's folder last, whatever lies there.

A user's ``random.py``, ``torch/`` or ``yaml.py`` hides nothing that membench needs. Only the name ``layers`` is
theirs where they use it: our code calls its own ``membench.layers``.
"""

import site
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from membench.processes.working_folder import search_working_folder_last, without_working_folder

_LAYERS = "layers"
# What membench and torch import: a file of one of these names in a revision is no copy of it.
_LIBRARIES = frozenset(
    [
        "torch",
        "numpy",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_extensions",
        "typing_inspection",
        "yaml",
        "triton",
        "sympy",
        "mpmath",
        "networkx",
        "jinja2",
        "markupsafe",
        "filelock",
        "fsspec",
        "setuptools",
    ]
)


def find_users_code(folders: Sequence[str] = ()) -> None:
    """Make the user's own modules importable.

    Args:
        folders: where they are, before installed packages, so that the copy of a package that lies there is
            taken rather than the installed one, but of a library of ours; empty: the working folder, after everything
            else.
    """
    if folders:
        path, installed = without_working_folder(sys.path), _installed()
        first = next((index for index, entry in enumerate(path) if entry in installed), len(path))
        sys.meta_path.insert(0, _OurLibraries(path))
        sys.path[:] = [*path[:first], *folders, *path[first:]]
    else:
        search_working_folder_last()
    theirs = _UsersLayers(folders or sys.path[-1:])
    if theirs.found:
        sys.meta_path.insert(0, theirs)


class _OurLibraries(MetaPathFinder):
    """Finds our libraries where they are installed, whatever lies in the user's folders."""

    def __init__(self, path: Sequence[str]) -> None:
        self.path = list(path)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return PathFinder.find_spec(fullname, self.path) if fullname in _LIBRARIES else None


class _UsersLayers(MetaPathFinder):
    """Finds ``layers`` in the user's folders before ours of that short name."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = list(folders)

    @property
    def found(self) -> bool:
        """Whether they have such a package, and it is not a checkout's own."""
        spec = PathFinder.find_spec(_LAYERS, self.folders)
        if spec is None:
            return False
        if spec.origin is None:  # a folder without __init__.py may hold code, or anything else
            return any(next(Path(folder).glob("*.py"), None) for folder in spec.submodule_search_locations or ())
        ours = Path(__file__).parent.parent / _LAYERS / "__init__.py"
        return Path(spec.origin).resolve() != ours.resolve()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return PathFinder.find_spec(fullname, self.folders) if fullname == _LAYERS else None


def _installed() -> set[str]:
    paths = sysconfig.get_paths()
    return {*site.getsitepackages(), site.getusersitepackages(), paths["purelib"], paths["platlib"]}
