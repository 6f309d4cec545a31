"""Memory, mixture-of-experts and dense layers, usable alone: ``from layers import build, spec_from``.

Importing this package imports no torch: ``layers.spec`` (configs and exact costs) is enough to
plan; ``build`` and ``verify`` are loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layers.spec import spec_from

if TYPE_CHECKING:
    from layers.factory import build
    from layers.layer import Layer, Routing, Selection
    from layers.value_table import RowGradient, ValueTable
    from layers.verification import Verification, verify

_LAZY = {
    "build": "layers.factory",
    "Layer": "layers.layer",
    "Routing": "layers.layer",
    "Selection": "layers.layer",
    "RowGradient": "layers.value_table",
    "ValueTable": "layers.value_table",
    "Verification": "layers.verification",
    "verify": "layers.verification",
}

__all__ = [
    "Layer",
    "Routing",
    "RowGradient",
    "Selection",
    "ValueTable",
    "Verification",
    "build",
    "spec_from",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'layers' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
