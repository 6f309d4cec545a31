"""The ``layers`` package under membench's name: ``from membench.layers import build``."""

from typing import Any

import layers as _layers

__all__ = _layers.__all__  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    return getattr(_layers, name)
