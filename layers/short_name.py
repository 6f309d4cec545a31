"""``layers`` is a short name of ``membench.layers``: the same modules, not a second copy of them.

The long name is the real one, so that the house stands wherever a user's own package is called ``layers``.
"""

import sys
from collections.abc import Sequence
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
        try:
            import_module(other)
        except ModuleNotFoundError as error:
            if error.name == other:
                return None
            raise
        return ModuleSpec(fullname, _SameModule(other))


def alias(name: str, other: str) -> None:
    """From now on ``name`` and all below it are ``other`` and all below that."""
    if not any(isinstance(finder, SameModules) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, SameModules(name, other))
    sys.modules[name] = import_module(other)
