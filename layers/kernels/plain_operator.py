"""Operators that are called often for little work: without ``custom_op``'s guards, which take longer than that."""

from collections.abc import Callable
from typing import Any

import torch

from membench.layers.kernels.bodies import note_body

_LIBRARY = torch.library.Library("membench", "FRAGMENT")


def plain_operator(schema: str, function: Callable[..., Any], *, on: tuple[str, ...] = ("CPU",)) -> Callable[..., Any]:
    """``membench::<schema>``, computed on these devices by ``function``, and seen by torch's counters and profilers.

    Not differentiable: for use inside autograd functions, and where no gradient is asked for.
    """
    name = schema.partition("(")[0]
    note_body(name, function)
    _LIBRARY.define(schema)
    for device in on:
        _LIBRARY.impl(name, function, device)
    return getattr(torch.ops.membench, name).default
