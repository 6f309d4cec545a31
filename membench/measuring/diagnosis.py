"""What this machine can measure: ceilings, noise, what others do to it, what it is fit for; what is null and why.

Run as a process of its own it answers ``membench doctor``, which shows it.
"""

import statistics
import time
from itertools import repeat
from typing import Any

from membench.machine.clocks import read_clocks
from membench.machine.device import available_memory_bytes, cache_bytes, describe
from membench.machine.disturbance import LIMIT, Watch
from membench.machine.energy import EnergyCounter
from membench.measuring.fitness import fitness
from membench.processes.questions import answer_of_devices

_ROW_ELEMENTS = (128, 512, 4096)
_TABLE_BYTES = 2**31
_LOOK_SECONDS = 4.0
_QUEUED = 50  # products in a window on CUDA


def diagnose(kind: str) -> dict[str, Any]:
    """What the machine is fit for, environment, ceilings, noise, disturbance, and reasons for what is unknown.

    Raises:
        ValueError: the device is not there.
    """
    environment = describe(kind)
    device = environment["device"]["type"]
    watch = Watch(device)
    ceilings = _ceilings(device)
    noise, disturbance = _look(device, watch)
    conditions = {**environment["conditions"], "cores": environment["host"]["cores"]}
    return {
        "verdict": fitness(noise, disturbance, conditions),
        "environment": environment,
        "clocks": read_clocks(device),
        "ceilings": ceilings,
        "noise": noise,
        "disturbance": disturbance,
        "null": _unknown(environment) | {f"disturbance: {name}": why for name, why in watch.unseen().items()},
    }


def _ceilings(device: str) -> dict[str, Any]:
    import torch

    from membench.layers.tables.value_table import ValueTable
    from membench.measuring.ceilings import matmul_ceiling, random_row_ceiling, stream_ceilings
    from membench.measuring.time import Clock

    clock = Clock(device)
    copied, read = stream_ceilings(clock, cache_bytes(device))
    found: dict[str, Any] = {"copy_bytes_per_s": copied, "read_bytes_per_s": read, "matmul_flops_per_s": {}}
    for name in ("float32", "bfloat16"):
        found["matmul_flops_per_s"][name] = matmul_ceiling(clock, getattr(torch, name))
    found["random_rows"] = []
    table_bytes = min(_TABLE_BYTES, (available_memory_bytes() or _TABLE_BYTES) // 4)
    for columns in _ROW_ELEMENTS:
        table = ValueTable(table_bytes // 2 // columns, columns, dtype=torch.bfloat16, device=device)
        rate = random_row_ceiling(clock, table.weight)
        found["random_rows"].append({"row_bytes": 2 * columns, "bytes_per_s": rate, "huge_pages": table.huge_pages})
        del table
    return found


def _look(device: str, watch: Watch) -> tuple[dict[str, float], dict[str, Any]]:
    """(spread, disturbance) of one unchanged product, timed again and again for some seconds.

    The spread is what any comparison has to beat; nothing is taken again or left out.
    """
    import torch

    from membench.measuring.retaking import WINDOW_S, Window, summary
    from membench.measuring.time import Clock, warm_up

    clock, a, inputs = Clock(device), torch.randn(768, 768, device=device), repeat(0)

    def product(_: int) -> object:
        return a @ a

    def window() -> list[float]:
        if device == "cuda":
            return clock.queued_seconds(product, inputs, _QUEUED, cold=False)
        begin, taken = time.perf_counter(), []
        while time.perf_counter() - begin < WINDOW_S:
            taken.append(clock.seconds(product, inputs, 1))
        return taken

    watch.begin()
    warm_up(clock, product, 0.5)
    watch.mark()
    windows: list[Window] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < _LOOK_SECONDS:
        windows.append(Window(window(), watch.seen()))
    taken = [each for found in windows for each in found.seconds]
    disturbed = sum(len(found.seconds) for found in windows if found.seen.worst > LIMIT)
    share = {"seconds": _LOOK_SECONDS, "samples": len(taken), "disturbed_share": disturbed / len(taken)}
    return _spread(taken), {**share, **summary(windows, watch)}


def _spread(taken: list[float]) -> dict[str, float]:
    median = statistics.median(taken)
    quartiles = statistics.quantiles(taken, n=4)
    halves = [statistics.median(half) for half in (taken[: len(taken) // 2], taken[len(taken) // 2 :])]
    return {
        "iqr_over_median": (quartiles[2] - quartiles[0]) / median,
        "max_over_median": max(taken) / median,
        "second_half_over_first": halves[1] / halves[0],
    }


def _unknown(environment: dict[str, Any]) -> dict[str, str]:
    """Which metrics will be null here, and why."""
    device = environment["device"]
    reasons = {}
    if EnergyCounter(device["type"]).source is None:
        where = "NVML offers no energy counter" if device["type"] == "cuda" else "no readable RAPL counter"
        reasons["energy_j_per_token"] = where
    if device["type"] == "cpu":
        reasons["peak_allocated_bytes"] = "only the CUDA allocator counts; peak_process_bytes is the resident memory"
        reasons["mfu_datasheet, mbu_datasheet"] = "there is no datasheet for this processor; ceilings are measured"
        reasons["disturbance: memory"] = "what others read and write is not counted, on cores left free least of all"
        reasons["latency_ms_hot_p50"] = "cold and hot caches are told apart on CUDA only"
    if device.get("cache_bytes") is None:
        reasons["bytes_dram_expected"] = "the last-level cache is unknown and taken as 0: lookups count in full"
    if why := environment["conditions"]["fallback"]:
        reasons["the fast path of operators"] = f"{why}: memory layers run on torch's path, two to three times slower"
    if device["type"] == "cpu" and environment["host"]["huge_pages"] in (None, "never"):
        reasons["huge pages"] = "transparent huge pages are off: random rows will be slower"
    return reasons


if __name__ == "__main__":
    answer_of_devices(diagnose)
