"""A CUDA graph without CUDA: what a call launches on the CPU is recorded, and launched again on the same memory.

As of a real one, nothing but launches is kept: operators of torch, and Triton's kernels, interpreted, each with the
tensors and numbers that it was given. Whatever the host decided or computed is as it was when the call was recorded.
Recording changes no memory that was there before: what is launched meanwhile is undone at its end.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layers.kernels.bodies import body_of
from layers.kernels.lookups import Runs
from layers.kernels.torch import top_k as torch_top_k
from layers.kernels.torch.lookups import narrowed
from layers.kernels.triton import launch as triton_launch
from layers.kernels.triton import lookups
from layers.kernels.triton import top_k as triton_top_k

_WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::repeat_interleave")
_NO_LAUNCH = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class RecordedGraph:
    """Stands in for ``torch.cuda.CUDAGraph``."""

    def __init__(self):
        self.launches = []

    def replay(self):
        with torch.no_grad():
            for launch in self.launches:
                launch()


@contextmanager
def recorded(graph):
    """Stands in for ``torch.cuda.graph``."""
    recorder = _Recorder(graph)
    with triton_launch.told_instead(recorder.told), recorder:
        yield
    recorder.undo()


class _Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.launches, self.before, self.own = graph.launches, {}, {}

    def told(self, kernel, programs, arguments, constants):
        self.keep(tree_leaves((arguments, constants)))

        def launch():
            kernel[programs](*arguments, **constants)

        self.launches.append(launch)
        launch()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "membench":
            with self:
                return body_of(name)(*args, **kwargs)
        if func._schema.name in _WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if func._schema.is_mutable:
            self.keep(tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        given = {place_of(each) for each in tensors(args, kwargs)}
        made = [each for each in tensors(result) if place_of(each) not in given]
        self.own.update((place_of(each), each) for each in made)
        if func._schema.is_mutable:
            self.launches.append(lambda: func(*args, **kwargs))
        elif made and name not in _NO_LAUNCH:

            def launch():
                for there, again in zip(tensors(result), tensors(func(*args, **kwargs)), strict=True):
                    if place_of(again) != place_of(there):
                        there.copy_(again)

            self.launches.append(launch)
        return result

    def keep(self, leaves):
        """What lies where a launch may write, unless the recorded call made it."""
        for each in tensors(leaves):
            if place_of(each) not in self.own and place_of(each) not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(each.untyped_storage())
                self.before[place_of(each)] = whole, whole.clone()

    def undo(self):
        for whole, values in self.before.values():
            whole.copy_(values)


def tensors(*trees):
    return [each for each in tree_leaves(trees) if isinstance(each, torch.Tensor)]


def place_of(tensor):
    return tensor.untyped_storage()._cdata


class _Stream:
    def wait_stream(self, other):
        pass


@contextmanager
def _error_mode(state):
    """While torch is asked to raise where the host waits, these operators do."""

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func._schema.name
            if state["mode"] == "error" and name in _WAITING:
                raise RuntimeError("called a synchronizing CUDA operation")
            return func(*args, **(kwargs or {}))

    with Watching():
        yield


def _padded_runs(rows, num_rows):
    ascending, order = torch.sort(narrowed(rows, num_rows), stable=True)
    return lookups.compacted(ascending, order, rows.dtype)


def _exact(runs):
    distinct = int((runs.starts[1:] > runs.starts[:-1]).sum())
    return Runs(runs.rows[:distinct], runs.starts[: distinct + 1], runs.order)


def instead_of_cuda(monkeypatch):
    """Graphs of tensors on the CPU are recorded where a GPU would capture them; runs have a GPU's static size."""
    monkeypatch.setattr(lookups, "find_runs", _padded_runs)
    monkeypatch.setattr(Runs, "exact", _exact)
    for name in ("product_key_top_k", "scores_gradient"):  # takes the interpreter most of a step, and changes nothing
        monkeypatch.setattr(triton_top_k, name, getattr(torch_top_k, name))
    monkeypatch.setattr("membench.measuring.captured._WARM_UP", 0)
    state = {"mode": 0}
    monkeypatch.setattr("membench.measuring.implementations._DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: _error_mode(state))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: state["mode"])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: state.update(mode=mode))
