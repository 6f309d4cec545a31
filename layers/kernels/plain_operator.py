"""Operators that are called often for little work: without ``custom_op``'s guards, which take longer than that."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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


def step_operator(schema: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain operator of few tokens on a CPU, which gives what has the shape of the tokens: its first operand."""
    operator = plain_operator(schema, function)
    torch.library.register_fake(f"membench::{schema.partition('(')[0]}", _like_first)
    return operator


def _like_first(x: Tensor, *others: object) -> Tensor:
    del others
    return x.new_empty(x.shape)
