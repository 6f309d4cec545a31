"""Checks of an optimizer's saved state, before any part of it is restored."""

from typing import Any

import torch
from torch import Tensor

_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # of torch's Adam and SGD


def check_keys(state: Any, wanted: dict[str, Any]) -> None:
    """Checks that something is a state dict with the wanted keys.

    Raises:
        ValueError: a key is missing.
    """
    missing = [key for key in wanted if not isinstance(state, dict) or key not in state]
    if missing:
        raise ValueError(f"the state lacks {', '.join(missing)}: state_dict() did not make it")


def check_torch_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Checks sizes, which torch's ``load_state_dict`` does not: its kernels would write beyond smaller moments.

    Raises:
        ValueError: the state is of other parameters.
    """
    check_keys(state, optimizer.state_dict())
    own = [[p.shape for p in group["params"]] for group in optimizer.param_groups]
    if [len(group["params"]) for group in state["param_groups"]] != [len(shapes) for shapes in own]:
        raise ValueError("the state is of another number of parameters")
    for group, shapes in zip(state["param_groups"], own, strict=True):
        for index, shape in zip(group["params"], shapes, strict=True):
            for name, value in tensors_of(state["state"].get(index, {})).items():
                if name in _LIKE_PARAMETERS and value.shape != shape:
                    raise ValueError(f"the state's {name} is {tuple(value.shape)}, the parameter {tuple(shape)}")


def tensors_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors in a state dict."""
    return {name: value for name, value in state.items() if torch.is_tensor(value)}
