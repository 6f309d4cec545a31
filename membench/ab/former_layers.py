"""Stands as ``membench.layers`` beside a revision whose own files import each other as ``layers.…``.

The harness imports ``membench.layers``, and has to get the revision's modules, not a second copy of them. They are in
the folder ``former`` beside this file, whatever the search path holds.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from membench.layers.short_name import LONG, SHORT, alias


def import_former() -> None:
    """``layers`` is from now on the revision's, and ``membench.layers`` the same."""
    theirs = Path(__file__).parent / "former"
    spec = spec_from_file_location(SHORT, theirs / "__init__.py", submodule_search_locations=[str(theirs)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[SHORT] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    alias(LONG, SHORT)


if __name__ == LONG:
    import_former()
