"""Clocks, temperature and throttling beside a measurement. What cannot be read is None."""

from typing import Any

from membench.machine.device import cpu_clock_mhz


def read_clocks(device: str) -> dict[str, Any]:
    """Clock of the cores (CPU), or SM and memory clock, temperature and throttle reasons (CUDA)."""
    if device != "cuda":
        return {"core_mhz": cpu_clock_mhz()}
    from membench.machine import nvml

    gpu, pynvml = nvml.handle(), nvml.pynvml
    questions = {
        "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    }
    return {name: None if gpu is None else nvml.ask(question) for name, question in questions.items()}
