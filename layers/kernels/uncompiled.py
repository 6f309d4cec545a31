"""Functions that a compiler leaves to Python. Its import takes as long as torch's own, so it is put off."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def uncompiled(reason: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """As ``torch.compiler.disable``, which imports the compiler at once; here whoever compiles does."""

    def decorated(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        apart: list[Callable[_Arguments, _Result]] = []

        @wraps(function)
        def call(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
            if not torch.compiler.is_compiling():
                return function(*arguments, **named)
            if not apart:
                apart.append(torch.compiler.disable(function, reason=reason))
            return apart[0](*arguments, **named)

        return call

    return decorated
