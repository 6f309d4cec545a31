"""The dtype in which a product is computed: that of its operands or autocast's, as for torch's ``nn.Linear``.

Autocast changes the operands of single torch calls. It does not know an operator with its own backward, and inside such
an operator it would change some calls and not others. So every product takes its operands from here, and the rest runs
``as_given``: with autocast off, in the forward and the backward pass. Choosing, normalizing and weighting is done in
at least fp32, as torch's softmax is under autocast. Table rows keep their dtype, as torch's embeddings do.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_any_autocast = torch._C._is_any_autocast_enabled  # on any device; called in every product, so it must be cheap


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which a tensor is multiplied: autocast's if it is on and the tensor is not fp64, else its own."""
    if _autocasts(tensor) and tensor.dtype.is_floating_point and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def operands(**tensors: Tensor) -> tuple[Tensor, ...]:
    """The operands of a product, in the one dtype in which it is computed. Differentiable.

    Raises:
        ValueError: they have different dtypes, and autocast is off or leaves them different.
    """
    dtypes = {name: product_dtype(tensor) for name, tensor in tensors.items()}
    (first, wanted), *others = dtypes.items()
    for name, dtype in others:
        if dtype != wanted:
            raise ValueError(f"{first} is {wanted}, {name} {dtype}: they are multiplied in one dtype")
    return tuple(each if each.dtype == wanted else each.to(wanted) for each in tensors.values())


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd would keep something of a product of these; else what it does takes longer than a small one."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """The tensor in fp32, if it is narrower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def as_given(tensor: Tensor) -> AbstractContextManager[object]:
    """Inside, calls on the tensor's device take their operands as they are, even under autocast."""
    return torch.autocast(tensor.device.type, enabled=False) if _autocasts(tensor) else nullcontext()


def computed_as_given(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """``as_given`` around an implementation or a backward pass, by the device of its first tensor."""

    @wraps(function)
    def computed(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        for argument in arguments if _any_autocast() else ():
            if isinstance(argument, Tensor):
                if not _autocasts(argument):  # a compiler then sees the function itself
                    break
                with as_given(argument):
                    return function(*arguments, **named)
        return function(*arguments, **named)

    return computed


def _autocasts(tensor: Tensor) -> bool:
    return _any_autocast() and not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)
