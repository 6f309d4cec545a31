"""Which path computes an operator: torch's own calls, C++ on a CPU, or Triton on a GPU.

An operator ``x`` is declared in ``layers/kernels/x.py``; its implementations are in ``torch/x.py``,
``native/x.py`` and ``triton/x.py``, under the same names. All give the same results. ``torch``
runs anywhere and is used where the others cannot run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from torch import Tensor

Path = Literal["torch", "native", "triton"]
_forced: Path | None = None
_meta_is_gpu = False
_taken: dict[str, set[str]] = {}


def implementation(name: str, tensor: Tensor) -> ModuleType:
    """The module that computes operator ``name`` on tensors like this one."""
    return _module(name, path_of(tensor))


def handed_on(name: str) -> ModuleType:
    """The torch path's module of an operator, for calls that the kernels of another path cannot do."""
    return _module(name, "torch")


def part_of_another(name: str, tensor: Tensor) -> ModuleType:
    """As ``implementation``, for what ``taken`` need not tell of: passes between the operators of a layer."""
    return _imported(name, path_of(tensor))


def _module(name: str, path: Path) -> ModuleType:
    took(name, path)
    return _imported(name, path)


def _imported(name: str, path: Path) -> ModuleType:
    return import_module(f"membench.layers.kernels.{path}.{name}")


def took(name: str, way: str) -> None:
    """Remember which path an operator took, for ``taken``."""
    _taken.setdefault(name, set()).add(way)


def taken() -> dict[str, str]:
    """Which paths operators took since ``forget_taken``, by the operator's name.

    ``native+torch``: the C++ handed some calls on to torch, or the operator ran on both paths.
    """
    return {name: "+".join(sorted(ways)) for name, ways in sorted(_taken.items())}


def forget_taken() -> None:
    """From now on ``taken`` tells only of later calls."""
    _taken.clear()


@contextmanager
def untold() -> Iterator[None]:
    """Inside, ``taken`` learns nothing: of calls that only check others."""
    before = {name: set(ways) for name, ways in _taken.items()}
    try:
        yield
    finally:
        _taken.clear()
        _taken.update(before)


def fallback(device: str) -> str | None:
    """Why operators on ``cpu`` or ``cuda`` take torch's path instead of the device's own; None if they do not."""
    if _forced is not None:
        return None
    if device == "cuda":
        return None if has_triton() else "the triton package is not installed"
    if device != "cpu" or has_native():
        return None
    from membench.layers.kernels.cpp_build import kernels

    return kernels().missing


def path_of(tensor: Tensor) -> Path:
    """The path that computes on a tensor like this one.

    Raises:
        ValueError: the forced path cannot.
    """
    if _forced is not None:
        if _forced == "native" and tensor.device.type != "cpu":
            raise ValueError(f"path native computes on a CPU, not on {tensor.device}")
        return _forced
    device = tensor.device.type
    if device == "cuda":
        return "triton" if has_triton() else "torch"
    return "native" if device == "cpu" and has_native() else "torch"


def on_gpu(tensor: Tensor) -> bool:
    """Whether a GPU computes what lies here; and for tensors without values, whether one is stood in for."""
    return tensor.device.type == "cuda" or (_meta_is_gpu and tensor.device.type == "meta")


@contextmanager
def meta_as_gpu() -> Iterator[None]:
    """Inside, tensors on device meta take the ways that they would take on a GPU with Triton."""
    global _meta_is_gpu
    before, _meta_is_gpu = _meta_is_gpu, True
    try:
        with forced("triton"):
            yield
    finally:
        _meta_is_gpu = before


@contextmanager
def forced(path: Path) -> Iterator[None]:
    """Inside, every operator takes this path, in all threads, because a backward pass may run in other threads.

    Raises:
        ValueError: the path cannot run here.
    """
    global _forced
    if path == "native" and not has_native():
        raise ValueError("path native needs Linux and a C++ compiler (c++, g++ or clang++, or one named by $CXX)")
    if path == "triton" and not has_triton():
        raise ValueError("path triton needs the triton package")
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


@cache
def has_triton() -> bool:
    """Whether Triton is installed. It runs on CUDA, and under ``TRITON_INTERPRET=1`` anywhere."""
    return find_spec("triton") is not None


@cache
def has_native() -> bool:
    """Whether the C++ kernels could be compiled here."""
    from membench.layers.kernels.cpp_build import library

    return library() is not None
