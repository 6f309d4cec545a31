"""Memory, mixture-of-experts and dense layers, usable alone: ``from layers import build, spec_from``.

Importing this package imports no torch: ``layers.spec`` (configs and exact costs) is enough to
plan; ``build`` and ``verify`` are loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layers.spec import spec_from

if TYPE_CHECKING:
    from layers.factory import build
    from layers.host_table import HostTable
    from layers.layer import Layer, Routing, Selection
    from layers.optim import LayerOptimizer, clip_gradients_
    from layers.quantized_table import QuantizedTable
    from layers.value_table import RowGradient, ValueTable
    from layers.verification import Verification, verify

_LAZY = {
    "build": "layers.factory",
    "Layer": "layers.layer",
    "Routing": "layers.layer",
    "Selection": "layers.layer",
    "RowGradient": "layers.value_table",
    "ValueTable": "layers.value_table",
    "HostTable": "layers.host_table",
    "QuantizedTable": "layers.quantized_table",
    "LayerOptimizer": "layers.optim",
    "clip_gradients_": "layers.optim",
    "Verification": "layers.verification",
    "verify": "layers.verification",
}

__all__ = [
    "HostTable",
    "Layer",
    "LayerOptimizer",
    "QuantizedTable",
    "Routing",
    "RowGradient",
    "Selection",
    "ValueTable",
    "Verification",
    "build",
    "clip_gradients_",
    "spec_from",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'layers' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
