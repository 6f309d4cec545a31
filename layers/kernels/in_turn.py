"""Steps of few tokens in C++: each by a call of its own, or several blocks' by one.

Between two calls Python reads its code and objects anew from memory: the weights of a block, which are read once, have
driven them out of the caches. Prepared one after the other they stay there, and the weights are read without a pause.
"""

import ctypes
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch._C._autograd import _profiler_enabled as profiler_enabled
from torch.nn.modules.module import _has_any_global_hook as has_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode as get_current_dispatch_mode

from membench.layers.kernels.native.calls import ELEMENTS, call, function, threads
from membench.layers.kernels.stages import is_observed, parts_of


class Steps:
    """Steps that wait: nobody has their results yet.

    Attributes:
        names, numbers: the kernel of each, and its packed arguments.
        parts: of each its kind of elements and its last part.
        kept: what each reads and writes.
        ran_together: whether these are all steps of an ``in_turn`` that is over.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.numbers: list[bytes] = []
        self.parts: list[int] = []
        self.kept: list[Sequence[Tensor | None]] = []
        self.ran_together = False

    def add(self, name: str, element: int, last: int, numbers: bytes, kept: Sequence[Tensor | None]) -> None:
        self.names.append(name)
        self.numbers.append(numbers)
        self.parts += element, last
        self.kept.append(kept)

    def run(self) -> None:
        """In their order, in one call."""
        StepsAgain(self).run()


class StepsAgain:
    """Steps that can be run again and again, on what lies where they read it."""

    def __init__(self, steps: Steps, without: Container[int] = ()) -> None:
        """``without``: addresses of tensors that somebody else keeps."""
        self._names, self._numbers = steps.names, [bytearray(each) for each in steps.numbers]
        self._kept = [
            each for kept in steps.kept for each in kept if each is not None and each.data_ptr() not in without
        ]
        count = len(self._numbers)
        self._places = [(ctypes.c_char * len(each)).from_buffer(each) for each in self._numbers]
        self._given = (ctypes.c_void_p * count)(*map(ctypes.addressof, self._places))
        self._steps = (ctypes.c_void_p * count)(*map(_address, steps.names))
        self._parts = (ctypes.c_int * (2 * count))(*steps.parts)

    def numbers_of(self, name: str) -> list[bytearray]:
        """The packed arguments of steps of this kernel, which may be changed between two runs."""
        return [each for kernel, each in zip(self._names, self._numbers, strict=True) if kernel == name]

    def run(self) -> None:
        """In their order, in one call."""
        call("in_turn", len(self._numbers), self._steps, self._given, self._parts, threads())


class _OfThread(threading.local):
    waiting: Steps | None = None


_of_thread = _OfThread()


def take_step(
    name: str, dtype: torch.dtype, stages: Sequence[str], numbers: bytes, kept: Sequence[Tensor | None]
) -> None:
    """Runs the kernel ``name`` of these stages; inside ``in_turn`` later, unless an observer wants to see each stage.

    Args:
        numbers: its packed arguments.
        kept: all tensors whose addresses are among them.
    """
    element, observed = ELEMENTS[dtype], is_observed()
    if _of_thread.waiting is not None and not observed:
        _of_thread.waiting.add(name, element, len(stages) - 1, numbers, kept)
        return
    finish_steps()
    for first, last in parts_of(stages):
        call(name, element, first, last, numbers, threads())


@contextmanager
def in_turn() -> Iterator[Steps]:
    """Steps that are taken inside run when it ends, in their order, in one call; after an error they do not run.

    Until then there is nothing in what they return: before anything but a step reads it, call ``finish_steps``.
    """
    finish_steps()
    before, steps = _of_thread.waiting, Steps()
    _of_thread.waiting = steps
    try:
        yield steps
        steps.ran_together = _of_thread.waiting is steps
        finish_steps()
    finally:
        _of_thread.waiting = before


def finish_steps() -> None:
    """Runs the steps that wait, if there are any."""
    waiting = _of_thread.waiting
    if waiting is not None and waiting.names:
        _of_thread.waiting = Steps()
        waiting.run()


def seen_between(modules: Iterable[nn.Module]) -> bool:
    """Whether a hook, a mode, a profiler or a compiler looks at what one gives before the last has run."""
    if torch.compiler.is_compiling() or profiler_enabled():
        return True
    if get_current_dispatch_mode() is not None or has_global_hook():
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@cache
def _address(name: str) -> int | None:
    return ctypes.cast(function(name, None), ctypes.c_void_p).value
