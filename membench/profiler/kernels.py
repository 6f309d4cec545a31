"""Operators and kernels by time, and traces for TensorBoard and Perfetto: what torch.profiler sees.

It slows what it watches, so its times are shares to go by; the stages' times are not from here.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function, schedule, tensorboard_trace_handler

from membench.measuring.time import StepCall
from membench.profiler.follower import StageFollower
from membench.results.profile import REST, KernelRow, StageKey

_MOST_KERNELS = 40


class NamedRanges(StageFollower):
    """Shows every stage as a named range of torch.profiler, its backward too."""

    def __init__(self) -> None:
        super().__init__()
        self._open: Any = None
        self._key: StageKey | None = None

    def moved(self, key: StageKey | None) -> None:
        if key == self._key:  # the nodes of one stage are one range
            return
        self._key = key
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
        if key is not None and key != REST:
            self._open = record_function(key.label)
            self._open.__enter__()


def kernels_by_time(step: StepCall, calls: int, device: str) -> tuple[list[KernelRow], bool]:
    """Operators (CPU) or kernels (CUDA) by time of their own, the longest first; whether all threads were seen."""
    config, sees_all = _all_threads()
    with profile(activities=_activities(device), experimental_config=config) as p:
        for i in range(calls):
            step(i)
        _synchronize(device)
    wanted = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    times_us = {
        event.key: (event.count, float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total))
        for event in p.key_averages()
        if event.device_type == wanted
    }
    whole_us = sum(spent for _, spent in times_us.values()) or 1.0
    longest = sorted(times_us.items(), key=lambda item: -item[1][1])[:_MOST_KERNELS]
    rows = [
        KernelRow(name=name, calls=count / calls, time_ms=spent / 1e3 / calls, share=spent / whole_us)
        for name, (count, spent) in longest
        if spent > 0
    ]
    return rows, sees_all


def write_trace(step: StepCall, folder: Path, name: str, device: str, calls: int = 3) -> list[Path]:
    """A run ``name`` that TensorBoard lists under ``folder``, and the same as a Chrome trace beside it.

    Args:
        step: a step ``observed`` by ``NamedRanges``.
        folder: made if it is not there.

    Returns:
        What was written; nothing where the folder cannot be written any more: what was measured stands without it.
    """
    try:
        return _write_trace(step, folder, name, device, calls)
    except (OSError, ValueError):  # ValueError: the profiler, which does not say so, left no file
        return []


def _write_trace(step: StepCall, folder: Path, name: str, device: str, calls: int) -> list[Path]:
    run = folder / name
    run.mkdir(parents=True, exist_ok=True)
    before = set(run.iterdir())
    with profile(
        activities=_activities(device),
        schedule=schedule(wait=0, warmup=1, active=calls, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(run), worker_name=name),
        experimental_config=_all_threads()[0],
    ) as p:
        for i in range(calls + 1):
            step(i)
            _synchronize(device)
            p.step()
    (written,) = set(run.iterdir()) - before
    chrome = folder / f"{name}.chrome_trace.json"
    shutil.copyfile(written, chrome)
    return [written, chrome, *_memory_snapshot(step, folder / f"{name}.memory.pickle", device)]


def _memory_snapshot(step: StepCall, path: Path, device: str) -> list[Path]:
    """CUDA: every allocation of two steps, as pytorch.org/memory_viz shows it."""
    if device != "cuda":
        return []
    torch.cuda.memory._record_memory_history()
    for i in range(2):
        step(i)
    torch.cuda.synchronize()
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None)
    return [path]


def _activities(device: str) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _all_threads() -> tuple[Any, bool]:
    """The setting by which the threads that share a mixture's experts are seen, where this torch has it."""
    try:
        return _ExperimentalConfig(profile_all_threads=True), True
    except TypeError:
        return None, False
