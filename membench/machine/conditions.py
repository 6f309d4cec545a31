"""What decides times beside the machine and the code: paths, compiler, instruction sets, threads, quotas, settings.

A process says it of itself, after it has measured: an environment variable, a package that is imported or a layer
from outside can change any of it. It goes down in each round (``ran``) and once in a run's ``environment``.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from membench.json_values import mapping, positive, text
from membench.machine.cgroup import cpu_quota, memory_limit_bytes
from membench.words import how_many

# Variables that change how fast the same code is. Those of CUDA count on CUDA only.
_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_CHECK_",
    "MALLOC_CONF",
    "MALLOC_PERTURB_",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "OMP_WAIT_POLICY",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONDEVMODE",
    "PYTHONMALLOC",
    "PYTHONTRACEMALLOC",
    "TORCHDYNAMO_DISABLE",
    "TORCH_COMPILE_DISABLE",
)
_CUDA_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TRITON_INTERPRET",
)
# Those that nobody sets to be fast.
_SLOWING = (
    "ATEN_CPU_CAPABILITY",
    "CUDA_LAUNCH_BLOCKING",
    "DNNL_MAX_CPU_ISA",
    "MALLOC_CHECK_",
    "MALLOC_PERTURB_",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_THREAD_LIMIT",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONDEVMODE",
    "PYTHONMALLOC",
    "PYTHONTRACEMALLOC",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TRITON_INTERPRET",
)


def conditions(device: str) -> dict[str, Any]:
    """What this process computes by on ``cpu`` or ``cuda``, JSON-able. Imports torch, and may compile the kernels."""
    import torch

    return {
        **_paths(device),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": _threads(torch.get_num_threads()),
        "cpu_quota_cores": cpu_quota(),
        "memory_limit_bytes": memory_limit_bytes(),
        "settings": dict(_unusual_settings()),
        "variables": _variables(device, os.environ),
    }


def _paths(device: str) -> dict[str, Any]:
    """By which way operators are computed."""
    import torch

    from membench.layers.kernels.cpp_build import kernels
    from membench.layers.kernels.paths import fallback, path_of

    native = kernels() if device == "cpu" else None
    return {
        "path": path_of(torch.empty(0, device=device)),
        "fallback": fallback(device),
        "compiler": native and native.compiler,
        "kernels_instruction_sets": list(native.instruction_sets) if native and native.instruction_sets else None,
    }


def ran(device: str) -> dict[str, Any]:
    """``conditions``, and as ``paths`` the way of each operator that ran since ``begin_ran``."""
    from membench.layers.kernels.paths import taken

    return {**conditions(device), "paths": taken()}


def begin_ran() -> None:
    """Forget which operators ran."""
    from membench.layers.kernels.paths import forget_taken

    forget_taken()


def _threads(asked: int) -> int:
    """OpenMP gives no region more than its limit, whatever torch has been told."""
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    return min(asked, int(limit)) if limit.isdigit() and int(limit) else asked


def _unusual_settings() -> Iterator[tuple[str, str]]:
    """Settings of torch that change times, where they are not as torch starts with."""
    import torch

    if (precision := torch.get_float32_matmul_precision()) != "highest":
        yield "float32_matmul_precision", precision
    if torch.are_deterministic_algorithms_enabled():
        yield "deterministic_algorithms", "on"
    if torch.is_anomaly_enabled():
        yield "anomaly_detection", "on"
    if not torch.backends.mkldnn.enabled:
        yield "onednn", "off"
    if torch.version.debug:
        yield "torch", "a debug build"


def _variables(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    names = (*_VARIABLES, *_CUDA_VARIABLES) if device == "cuda" else _VARIABLES
    return {name: environment[name] for name in sorted(names) if environment.get(name)}


def binding_quota(ran: Mapping[str, Any], threads: float | None) -> float | None:
    """The processor quota in cores, where it is less than the threads could use; else None."""
    quota = positive(ran, "cpu_quota_cores")
    return quota if quota is not None and threads is not None and quota < threads else None


def what_is_slow(ran: Mapping[str, Any], threads: float | None) -> list[str]:
    """What made a process slower than its machine is, in a line each.

    Args:
        ran: what it said.
        threads: that it was started with.
    """
    found = []
    why, ways = text(ran, "fallback"), mapping(ran, "paths").values()
    if why and any("torch" in str(way).split("+") for way in ways):
        found.append(f"on torch's path, two to three times slower: {why}")
    quota, in_effect = binding_quota(ran, threads), positive(ran, "threads")
    if quota is not None and threads is not None:
        found.append(f"throttled: a CPU quota of {quota:g} cores for {how_many(int(threads), 'thread')}")
    if threads is not None and in_effect is not None and in_effect != threads:
        found.append(f"{how_many(int(in_effect), 'thread')} in effect, not {threads:g}")
    found += [f"{name} is {value}" for name, value in mapping(ran, "settings").items()]
    found += [f"{name}={value}" for name, value in mapping(ran, "variables").items() if name in _SLOWING]
    return found


def announcements(ran: Mapping[str, Any], kinds: list[str], cores: int, threads: int | None) -> list[str]:
    """What a user should hear before a run: why it will be slower than the machine is.

    Args:
        ran: ``conditions`` of the run's environment.
        kinds: of the layers and operators that it measures and that take the best path there is.
        cores: that it may use.
        threads: that were asked for; None: as many as there are.
    """
    found = []
    why, quota = text(ran, "fallback"), positive(ran, "cpu_quota_cores")
    if why and kinds:
        missing, remedy = _missing(why)
        behind = _listed(list(dict.fromkeys(kinds)))
        found.append(f"{missing} ({why}): {behind} on torch's path, two to three times slower; {remedy}")
    if quota is not None and quota < min(threads or cores, cores):
        count = min(threads or max(1, int(quota)), cores)
        throttled = ", throttled" if count > quota else ""
        found.append(f"a CPU quota of {quota:g} of {cores} cores: {how_many(count, 'thread')}{throttled}")
    found += [f"torch runs with {name} {value}" for name, value in mapping(ran, "settings").items()]
    found += [f"{name}={value} is set" for name, value in mapping(ran, "variables").items() if name in _SLOWING]
    return found


def _missing(why: str) -> tuple[str, str]:
    """What is not to be had, and what would help."""
    if "triton" in why:
        return "no Triton", "install triton"
    if why.startswith("the cache"):
        return "no C++ kernels", "name another folder by $MEMBENCH_CACHE"
    named = os.environ.get("CXX", "").strip()
    return "no working C++ compiler", "mend $CXX, or unset it" if named else "install g++"


def _listed(names: list[str]) -> str:
    *others, last = names
    return " ".join([", ".join(others), "and", last, "run"] if others else [last, "runs"])
