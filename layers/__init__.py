"""Memory, mixture-of-experts and dense layers, usable alone: ``from layers import build, spec_from``.

Importing this package imports no torch: ``layers.spec`` (configs and exact costs) is enough to
plan; ``build`` and ``verify`` are loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from membench.layers.short_name import LONG, SHORT, alias
from membench.layers.spec import Step, spec_from

if TYPE_CHECKING:
    from membench.layers.checking.verification import Verification, verify
    from membench.layers.factory import build
    from membench.layers.layer import Layer, Routing, Selection
    from membench.layers.optim.layer_optimizer import LayerOptimizer, clip_gradients_
    from membench.layers.parallel.distributed import connect
    from membench.layers.tables.host_table import HostTable
    from membench.layers.tables.quantized_table import QuantizedTable
    from membench.layers.tables.value_table import RowGradient, ValueTable

_LAZY = {
    "build": "membench.layers.factory",
    "Layer": "membench.layers.layer",
    "Routing": "membench.layers.layer",
    "Selection": "membench.layers.layer",
    "RowGradient": "membench.layers.tables.value_table",
    "ValueTable": "membench.layers.tables.value_table",
    "HostTable": "membench.layers.tables.host_table",
    "QuantizedTable": "membench.layers.tables.quantized_table",
    "connect": "membench.layers.parallel.distributed",
    "LayerOptimizer": "membench.layers.optim.layer_optimizer",
    "clip_gradients_": "membench.layers.optim.layer_optimizer",
    "Verification": "membench.layers.checking.verification",
    "verify": "membench.layers.checking.verification",
}

__all__ = [
    "HostTable",
    "Layer",
    "LayerOptimizer",
    "QuantizedTable",
    "Routing",
    "RowGradient",
    "Selection",
    "Step",
    "ValueTable",
    "Verification",
    "build",
    "clip_gradients_",
    "connect",
    "spec_from",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'layers' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


if __name__ == SHORT:
    alias(SHORT, LONG)
