"""Kernels are compiled for a GPU that is not there, and not run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from membench.errors import UsageError
from membench.layers.kernels.triton import quantized_bag


@dataclass(frozen=True, slots=True)
class Launch:
    """What a call would have launched.

    Args:
        kernel: what Triton compiled, with its machine code and its metadata.
        constants: what is compiled into it.
    """

    name: str
    programs: tuple[int, ...]
    kernel: Any
    constants: dict[str, Any]


@dataclass(slots=True)
class Launches:
    """Those of the calls so far."""

    all: list[Launch] = field(default_factory=list)


class _Absent:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


@contextmanager
def compile_only(capability: int) -> Iterator[Launches]:
    """Within it a launch compiles its kernel and does no more; what the call returns has no meaning.

    The GPU stays absent for the rest of the process, which can run no kernel any more.

    Args:
        capability: the GPU's, as a number: 90 is a Hopper (sm_90a), 80 an A100.

    Raises:
        UsageError: Triton interprets its kernels in this process (``TRITON_INTERPRET``).
    """
    if isinstance(triton.language.sum, InterpretedFunction):
        raise UsageError("kernels are interpreted in this process, and not compiled", key="TRITON_INTERPRET")
    launches, run = Launches(), JITFunction.run

    def compiled(self: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        launches.all.append(Launch(self.fn.__name__, tuple(grid), kernel, options))
        return kernel

    triton.runtime.driver.set_active(cast(Any, _Absent(capability)))
    JITFunction.run = compiled
    has = divmod(capability, 10)
    try:
        with mock.patch.object(quantized_bag, "capability", lambda tensor: has):
            yield launches
    finally:
        JITFunction.run = run
