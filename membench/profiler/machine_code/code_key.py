"""Which machine code a launch runs: of one kernel there is some for each width, and for each of its variants."""

from collections.abc import Mapping
from typing import Any, NamedTuple

_SIZES = ("N", "COLUMNS", "SUB_KEYS", "HIDDEN", "WORDS")  # a grouped product's COLUMNS are a tile's
_VARIANTS = ("OPTIMIZER", "FLOAT8", "TOP_K", "IN_PARTS")
_CALLED = {"FLOAT8": "float8", "IN_PARTS": "in parts"}  # what is there or not


class CodeKey(NamedTuple):
    """A kernel, the variant that it was compiled as, and the width that it was compiled for."""

    kernel: str
    variant: str
    size: int


def code_key(kernel: str, constants: Mapping[str, Any]) -> CodeKey:
    """Of a launch of a kernel with these constants: D, n or f, and what else is compiled into it."""
    size = next((constants[name] for name in _SIZES if name in constants), 0)
    said = ((name, constants[name]) for name in _VARIANTS if constants.get(name) not in (None, False))
    return CodeKey(kernel, " ".join(_CALLED.get(name, str(value)) for name, value in said), size)
