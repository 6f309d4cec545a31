"""What keeps a GPU from giving this process all that it has: throttled clocks, and other processes on it. NVML."""

from typing import NamedTuple

# Why clocks are held down, by NVML's bits, where another run need not have it. The idle GPU, clocks that an
# administrator has set and the power limit are not among them: the last is what a full load settles at, for every run.
_HARMFUL = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class GpuSharing(NamedTuple):
    """``reasons``: why clocks are held down now. ``others``: processes beside this one. None where it is not told."""

    reasons: tuple[str, ...] | None
    others: int | None


def read_gpu_sharing() -> GpuSharing:
    """As it is now, on torch's current device."""
    from membench.machine import nvml

    gpu, pynvml = nvml.handle(), nvml.pynvml
    if gpu is None:
        return GpuSharing(None, None)
    bits = nvml.ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)
    processes = nvml.ask(pynvml.nvmlDeviceGetComputeRunningProcesses, gpu)
    return GpuSharing(
        None if bits is None else tuple(name for bit, name in _HARMFUL.items() if bits & bit),
        # by their number: in a container their ids are not those that this process knows; one of them is this process
        None if processes is None else max(0, len(processes) - 1),
    )
