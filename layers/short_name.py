"""``layers`` is a short name of ``membench.layers``: the same modules, not a second copy of them.

The long name is the real one, and our code uses no other: a user's own package may be called ``layers``.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SHORT, LONG = "layers", "membench.layers"


class _SameModule(Loader):
    """Loads nothing: the module is the one that its other name stands for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        del spec
        module = import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just written the other name's over it


class SameModules(MetaPathFinder):
    """Finds what is below ``name`` as what is below ``other``."""

    def __init__(self, name: str, other: str) -> None:
        self.name, self.other = name, other

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self.name}."):
            return None
        other = self.other + fullname.removeprefix(self.name)
        with suppress_missing(other):
            import_module(other)
            return ModuleSpec(fullname, _SameModule(other))
        return None


def alias(name: str, other: str) -> None:
    """From now on ``name`` and all below it are ``other`` and all below that."""
    if not any(isinstance(finder, SameModules) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, SameModules(name, other))
    sys.modules[name] = import_module(other)


def long_name(name: str) -> str | None:
    """The long name of a module whose short name this may be; None for all others."""
    return LONG + name.removeprefix(SHORT) if name.split(".")[0] == SHORT else None


@contextmanager
def suppress_missing(name: str) -> Iterator[None]:
    """Goes on after a ModuleNotFoundError that says that module ``name``, or one it lies in, is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise


def which_layers(error: BaseException) -> str:
    """What to add to an import's error where ``layers`` is a user's package, and ours was perhaps meant."""
    theirs = sys.modules.get(SHORT)
    missing = error.name if isinstance(error, ImportError) else None
    if theirs is None or theirs is sys.modules.get(LONG) or (missing or "").split(".")[0] != SHORT:
        return ""
    where = next(iter(getattr(theirs, "__path__", [])), None) or theirs.__file__
    return f"; here {SHORT} is the package in {where}, and membench's own is {LONG}"
