"""Joules spent, from a hardware counter: NVML's on a GPU, RAPL's on a CPU. None where there is none."""

from contextlib import suppress
from pathlib import Path
from typing import Any

NO_DEVICE = "none"  # has no counter
_RAPL = Path("/sys/class/powercap")


def _rapl_packages() -> list[Path]:
    """The package domains whose counters may be read."""
    found = []
    for domain in sorted(_RAPL.glob("*-rapl:[0-9]*")):
        if domain.name.count(":") == 1:
            with suppress(OSError, ValueError):
                int((domain / "energy_uj").read_text(encoding="utf-8"))
                found.append(domain)
    return found


class EnergyCounter:
    """Cumulative joules of the device; differences of two readings are energy spent.

    The RAPL counter wraps at ``max_energy_range_uj``; ``spent_j`` undoes one wrap a domain.
    """

    def __init__(self, device: str) -> None:
        self._gpu = _nvml_handle() if device == "cuda" else None
        self._packages = _rapl_packages() if device == "cpu" else []

    @property
    def source(self) -> str | None:
        """Which counter this is; None if there is none."""
        if self._gpu is not None:
            return "nvml"
        return "rapl" if self._packages else None

    def read(self) -> list[float]:
        """Joules by domain."""
        if self._gpu is not None:
            import pynvml

            return [pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu) / 1e3]
        return [int((package / "energy_uj").read_text(encoding="utf-8")) / 1e6 for package in self._packages]

    def spent_j(self, before: list[float], after: list[float]) -> float | None:
        """Joules between two readings."""
        if self.source is None:
            return None
        total = 0.0
        for index, (low, high) in enumerate(zip(before, after, strict=True)):
            wrap = 0.0
            if high < low and self._packages:
                wrap = int((self._packages[index] / "max_energy_range_uj").read_text(encoding="utf-8")) / 1e6
            total += high - low + wrap
        return total


def _nvml_handle() -> Any | None:
    """The GPU, if it has an energy counter (Volta and later)."""
    from membench.machine import nvml

    gpu = nvml.handle()
    if gpu is None or nvml.ask(nvml.pynvml.nvmlDeviceGetTotalEnergyConsumption, gpu) is None:
        return None
    return gpu
