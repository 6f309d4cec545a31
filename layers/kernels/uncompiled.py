"""The compiler is imported by whoever compiles: that takes as long as importing torch, and most processes never do."""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

from membench.layers.kernels.bodies import note_body

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def uncompiled(reason: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """A function that a compiler leaves to Python: ``torch.compiler.disable``, which imports the compiler, put off."""

    def decorated(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        apart: list[Any] = []

        @wraps(function)
        def call(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
            if not torch.compiler.is_compiling():
                return function(*arguments, **named)
            if not apart:
                apart.append(torch.compiler.disable(function, reason=reason))
            return apart[0](*arguments, **named)

        return call

    return decorated


def custom_op(name: str, *, mutates_args: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """``torch.library.custom_op`` whose kernel does not import the compiler in its first call.

    Torch keeps the compiler out of a kernel by a guard that imports it. Before anybody else has imported it, there is
    nothing to keep out. Where another torch keeps its kernels elsewhere, they are as torch made them.
    """

    def defined(function: Callable[..., Any]) -> Any:
        note_body(name.removeprefix("membench::"), function)
        operator = torch.library.custom_op(name, function, mutates_args=mutates_args)
        kernels: dict[Any, Callable[..., Any]] = getattr(operator, "_backend_fns", {})
        for device, guarded in kernels.items():
            plain = getattr(guarded, "__wrapped__", None)
            # what lies under the function itself is none of torch's guard: autocast is kept out there
            if plain is not None and guarded is not function and plain is not getattr(function, "__wrapped__", None):
                kernels[device] = _guarded_where_needed(guarded, plain)
        return operator

    return defined


def _guarded_where_needed(guarded: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def kernel(*arguments: Any, **named: Any) -> Any:
        return (guarded if "torch._dynamo" in sys.modules else plain)(*arguments, **named)

    return kernel
