"""The ``layers`` package under membench's name: ``from membench.layers import build``."""

from layers import __all__ as _names
from layers import __getattr__, spec_from

__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]
_ = (spec_from, __getattr__)
