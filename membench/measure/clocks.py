"""Clocks, temperature and throttling beside a measurement. What cannot be read is None."""

from contextlib import suppress
from typing import Any

from membench.device import cpu_clock_mhz


def read_clocks(device: str) -> dict[str, Any]:
    """Clock of the cores (CPU), or SM and memory clock, temperature and throttle reasons (CUDA)."""
    if device != "cuda":
        return {"core_mhz": cpu_clock_mhz()}
    import pynvml

    reading: dict[str, Any] = {"sm_mhz": None, "memory_mhz": None, "temperature_c": None, "throttle_reasons": None}
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        for name, ask in {
            "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        }.items():
            with suppress(pynvml.NVMLError):
                reading[name] = ask()
    return reading
