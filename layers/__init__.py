"""Memory, mixture-of-experts and dense layers, usable alone: ``from layers import build, spec_from``.

Importing this package imports no torch: ``layers.spec`` (configs and exact costs) is enough to
plan; ``build`` and ``verify`` are loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from membench.layers.short_name import LONG, SHORT, alias
from membench.layers.spec import spec_from

if TYPE_CHECKING:
    from membench.layers.factory import build
    from membench.layers.host_table import HostTable
    from membench.layers.layer import Layer, Routing, Selection
    from membench.layers.optim import LayerOptimizer, clip_gradients_
    from membench.layers.quantized_table import QuantizedTable
    from membench.layers.value_table import RowGradient, ValueTable
    from membench.layers.verification import Verification, verify

_LAZY = {
    "build": "membench.layers.factory",
    "Layer": "membench.layers.layer",
    "Routing": "membench.layers.layer",
    "Selection": "membench.layers.layer",
    "RowGradient": "membench.layers.value_table",
    "ValueTable": "membench.layers.value_table",
    "HostTable": "membench.layers.host_table",
    "QuantizedTable": "membench.layers.quantized_table",
    "LayerOptimizer": "membench.layers.optim",
    "clip_gradients_": "membench.layers.optim",
    "Verification": "membench.layers.verification",
    "verify": "membench.layers.verification",
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


if __name__ == SHORT:
    alias(SHORT, LONG)
