"""The first file of a process of ours, run by its path: ``first.py MODULE DESCRIPTOR PARENT [FOLDER…]``.

It finds this membench by where the file itself lies, before anything that a folder on the search path holds
under the same name, and then runs a module of it. ``membench.processes.child`` starts it.
"""

import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def import_this_membench() -> None:
    """``membench`` is from now on the package that this file is of."""
    folder = Path(__file__).parent.parent
    spec = spec_from_file_location("membench", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["membench"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def main() -> None:
    """Arrange the search path, then be the module asked for."""
    _, name, descriptor, parent, *folders = sys.argv
    import_this_membench()
    from membench.processes.search_path import find_users_code

    find_users_code(folders)  # before anything imports layers, which may be a revision's
    from membench.processes.serving import live_no_longer_than

    live_no_longer_than(int(parent))
    sys.argv = [name, descriptor]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
