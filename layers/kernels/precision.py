"""The dtype that a product is computed in: that of its operands, or autocast's, as torch has it for ``nn.Linear``.

Autocast rewrites calls of torch's one by one. An operator with a backward of its own is none of them, and inside
it some calls would be rewritten and others not. So every product takes its operands from here, and what follows
runs ``as_given``: with autocast off, forward and backward. What chooses, normalizes or weighs is fp32 at least, as
torch's softmax is under autocast; table rows keep their dtype, as torch's embeddings do.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_any_autocast = torch._C._is_any_autocast_enabled  # on whatever device; asked in each call, so what it costs counts


def product_dtype(tensor: Tensor) -> torch.dtype:
    """What a tensor is multiplied in here: autocast's dtype where it is on; fp64, which it spares, and else its own."""
    if _autocasts(tensor) and tensor.dtype.is_floating_point and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def operands(**tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors of a product in the one dtype that it is computed in. Differentiable.

    Raises:
        ValueError: autocast does not make them one.
    """
    dtypes = {name: product_dtype(tensor) for name, tensor in tensors.items()}
    (first, wanted), *others = dtypes.items()
    for name, dtype in others:
        if dtype != wanted:
            raise ValueError(f"{first} is {wanted}, {name} {dtype}: they are multiplied in one dtype")
    return tuple(each if each.dtype == wanted else each.to(wanted) for each in tensors.values())


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Widened, if it is narrower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def as_given(tensor: Tensor) -> AbstractContextManager[object]:
    """Inside, calls on the tensor's device take their operands as they are, under autocast too."""
    return torch.autocast(tensor.device.type, enabled=False) if _autocasts(tensor) else nullcontext()


def computed_as_given(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """``as_given`` around an implementation or a backward pass, by the device of its first tensor."""

    @wraps(function)
    def computed(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        for argument in arguments if _any_autocast() else ():
            if isinstance(argument, Tensor):
                if not _autocasts(argument):  # nothing then stands between a compiler and the function
                    break
                with as_given(argument):
                    return function(*arguments, **named)
        return function(*arguments, **named)

    return computed


def _autocasts(tensor: Tensor) -> bool:
    return _any_autocast() and not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)
