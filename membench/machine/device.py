"""What this machine is: cores, caches, memory, GPUs, clocks, versions. Unknown is None.

Run as a process of its own it says the whole of it to whoever started it, so that neither a plan nor a
table has to import torch.
"""

import hashlib
import json
import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from membench.files import read_text
from membench.machine.cgroup import cpu_quota, memory_room_bytes
from membench.machine.conditions import conditions

_CPUS = Path("/sys/devices/system/cpu")
_INSTRUCTION_SETS = re.compile(r"(avx|amx|fma|f16c|asimd|sve|i8mm|bf16)\w*|sme\d*")  # smep is none
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_UNTOUCHED_BYTES = 700_000_000  # of 0.96e9 that a process with torch maps, a third is resident


def meminfo_bytes(key: str) -> int | None:
    """A line of /proc/meminfo, in bytes; None where there is none."""
    match = re.search(rf"^{key}:\s+(\d+) kB", read_text("/proc/meminfo") or "", re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def available_memory_bytes() -> int | None:
    """Host memory that a new process could take: what is free, or less where a control group or a ulimit caps it."""
    free = (meminfo_bytes("MemAvailable"), memory_room_bytes(), _ulimit_bytes())
    return min((each for each in free if each is not None), default=None)


def _ulimit_bytes() -> int | None:
    """What ``ulimit -v`` and ``-d`` leave to a process, less what torch maps and never touches; None: all."""
    try:
        import resource
    except ImportError:  # no Unix
        return None
    taken = {resource.RLIMIT_AS: _UNTOUCHED_BYTES, resource.RLIMIT_DATA: 0}
    limits = {kind: resource.getrlimit(kind)[0] for kind in taken}
    left = [max(0, limit - taken[kind]) for kind, limit in limits.items() if limit != resource.RLIM_INFINITY]
    return min(left, default=None)


def last_level_cache_bytes() -> int | None:
    """The last-level caches of all usable cores together, as the kernel states them."""
    caches: dict[tuple[int, str], int] = {}  # (level, who shares it) -> bytes
    for core in usable_cores():
        for index in (_CPUS / f"cpu{core}" / "cache").glob("index*"):
            size = re.fullmatch(r"(\d+)([KMG])", read_text(index / "size") or "")
            level, shared_by = read_text(index / "level"), read_text(index / "shared_cpu_list")
            if size and level and shared_by:
                caches[int(level), shared_by] = int(size.group(1)) * _UNITS[size.group(2)]
    last = max((level for level, _ in caches), default=None)
    return sum(size for (level, _), size in caches.items() if level == last) or None


def cache_bytes(kind: str) -> int:
    """What inputs must go past on ``cpu`` or ``cuda``: the last-level caches, or the L2 cache; 0 where unknown."""
    if kind != "cuda":
        return last_level_cache_bytes() or 0
    import torch

    return torch.cuda.get_device_properties(0).L2_cache_size


def cpu_name() -> str:
    """The processor's name."""
    match = re.search(r"^model name\s*:\s*(.+)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return match.group(1) if match else platform.processor() or platform.machine()


@cache
def usable_cores() -> tuple[int, ...]:
    """The cores this process may run on, as they were when it was first asked.

    Ask before torch is imported: OpenMP then binds the main thread to one of them.
    """
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def default_threads() -> int:
    """A thread a usable core, but no more than a quota feeds: one more and all sleep for a part of each period."""
    quota = cpu_quota()
    cores = len(usable_cores())
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_clock_mhz() -> float | None:
    """Mean clock of all cores now, where the kernel tells."""
    clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return sum(map(float, clocks)) / len(clocks) if clocks else None


def package_versions() -> dict[str, str | None]:
    """Versions of what a number depends on."""
    found: dict[str, str | None] = {}
    for name in ("membench", "torch", "triton", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _cpu() -> dict[str, Any]:
    known = _processor_words("flags", "Features")
    return {
        "type": "cpu",
        "name": cpu_name(),
        "cores": len(usable_cores()),
        "memory_bytes": meminfo_bytes("MemTotal"),
        "cache_bytes": last_level_cache_bytes(),
        "vector_extensions": sorted(known & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "asimd"}),
        "instruction_sets": sorted(word for word in known if _INSTRUCTION_SETS.fullmatch(word)),
        "model": _processor_model(),
        "physical_cores": _physical_cores(),
    }


def _processor_words(*keys: str) -> set[str]:
    """The words of the first line of /proc/cpuinfo that has one of these keys."""
    line = re.search(rf"^(?:{'|'.join(keys)})\s*:\s*(.+)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return set(line.group(1).split()) if line else set()


def _processor_model() -> str | None:
    """Family, model and stepping, or what an ARM core has instead: clouds give many processors one name."""
    names = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")
    text = read_text("/proc/cpuinfo") or ""
    found = (re.search(rf"^{name}\s*:\s*(\S+)$", text, re.MULTILINE) for name in names)
    return "-".join(match.group(1) for match in found if match) or None


def _physical_cores() -> int | None:
    """How many cores the usable logical ones lie on: two threads of one core are slower than two cores."""
    siblings = (read_text(_CPUS / f"cpu{core}/topology/thread_siblings_list") for core in usable_cores())
    known = [each for each in siblings if each]
    return len(set(known)) or None


def _cuda() -> list[dict[str, Any]]:
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "type": "cuda",
                "name": properties.name,
                "cores": properties.multi_processor_count,
                "memory_bytes": properties.total_memory,
                "available_bytes": torch.cuda.mem_get_info(index)[0],
                "cache_bytes": properties.L2_cache_size,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return devices


def fingerprint(device: dict[str, Any]) -> str:
    """A short name for this kind of machine. What may be compared is decided by facts: ``membench.machine.identity``.

    Memory is left out: as kernels tell it, it changes from boot to boot.
    """
    kinds = ("type", "name", "cores", "cache_bytes", "instruction_sets", "model", "physical_cores", "capability")
    identity = [device.get(kind) for kind in kinds]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def describe(kind: str = "auto") -> dict[str, Any]:
    """The environment of a run on ``kind`` (auto, cpu, cuda), as a result file keeps it.

    Raises:
        ValueError: cuda was asked for and torch sees none.
    """
    usable_cores()
    import torch

    gpus = _cuda() if kind != "cpu" and torch.cuda.is_available() else []
    if kind == "cuda" and not gpus:
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        raise ValueError(f"--device cuda: {built}; use --device cpu, or install a CUDA build of torch")
    device = gpus[0] if gpus else _cpu()
    return {
        "device": device,
        "fingerprint": fingerprint(device),
        "num_devices": len(gpus) or 1,
        "host": {**_cpu(), "os": platform.platform(), "huge_pages": _huge_pages()},
        "python": platform.python_version(),
        "packages": package_versions(),
        "cuda": torch.version.cuda,
        "nvml": _nvml() if gpus else None,
        "conditions": {**conditions(device["type"]), "threads": default_threads()},
        "virtual": "hypervisor" in (read_text("/proc/cpuinfo") or ""),
    }


def _huge_pages() -> str | None:
    setting = read_text("/sys/kernel/mm/transparent_hugepage/enabled")
    match = re.search(r"\[(\w+)\]", setting or "")
    return match.group(1) if match else None


def _nvml() -> dict[str, Any] | None:
    """Driver, limits and modes of the GPU in use, from NVML."""
    from membench.machine import nvml

    gpu = nvml.handle()
    if gpu is None:
        return None
    pynvml = nvml.pynvml
    return {
        "driver": nvml.ask(pynvml.nvmlSystemGetDriverVersion),
        "uuid": nvml.ask(pynvml.nvmlDeviceGetUUID, gpu),
        "power_limit_w": nvml.ask(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000),
        "max_sm_clock_mhz": nvml.ask(pynvml.nvmlDeviceGetMaxClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        "ecc": nvml.ask(lambda: bool(pynvml.nvmlDeviceGetEccMode(gpu)[0])),
        "mig": nvml.ask(lambda: bool(pynvml.nvmlDeviceGetMigMode(gpu)[0])),
    }


if __name__ == "__main__":
    from membench.processes.questions import answer_of_devices

    answer_of_devices(describe)
