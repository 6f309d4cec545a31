"""How long a launch is predicted to take on a Hopper. Arithmetic on published peaks, and assumptions that say they are.

A launch takes the longest of

* its DRAM bytes at ``_STREAMED`` of the published bandwidth (where no cache is published, an H200's, none is counted
  on, as in a plan's floors);
* all bytes that it asks for at the L2 cache's rate;
* its FLOPs at a share of the published rate of their dtype;
* its instructions at one a clock of each of a multiprocessor's four schedulers;
* the trips to memory that its programs wait for one after the other, as many programs side by side as fit (Little's
  law): what has few bytes in flight is bound by this;

and ``_KERNEL_US`` for each kernel. How many programs fit, and their instructions, are read from machine code
(``machine_code.figures``); torch's own kernels are taken to wait for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from membench.machine.datasheet import Entry
from membench.planning.predicted_hardware import MULTIPROCESSORS
from membench.profiler.launches.tracing import Launched
from membench.profiler.machine_code.figures import nearest

Limit = Literal["DRAM", "L2", "FLOPs", "instructions", "latency"]

# Assumptions: what is usually reached on a Hopper, none of it measured by membench.
_STREAMED = 0.9  # of published bandwidth, which a copy of large tensors reaches
# of published rates, large products
_MULTIPLIED = {"bfloat16": 0.66, "float16": 0.66, "tfloat32": 0.66, "float32": 0.75}
_SUSTAINED = 0.9  # of the highest clock, under load
_L2_BYTES_PER_CLOCK = 27.5  # of a multiprocessor: 5.5 TB/s of reads on an H100 PCIe; copies are said to reach half
_TRIP_S = 1e-6  # to memory, under load (0.3 us alone): 25 KiB in flight on each multiprocessor keep an H100's HBM busy
_KERNEL_US = 3.0  # from the end of a kernel's work to the beginning of the next one's, with its ramps
_HOST_US = 15.0  # eager Python, torch and Triton, for a launch

_FLOPS_PER_CLOCK = 256  # fp32, of a multiprocessor (128 lanes, a multiply-add each): the clock follows from the rate
_SCHEDULERS = 4


@dataclass(frozen=True, slots=True)
class Predicted:
    """Of one launch: milliseconds on the device, and which of the five bounds it."""

    ms: float
    limit: Limit


def predict(launched: Launched, entry: Entry) -> Predicted:
    """What a launch takes on a GPU, one of ``MULTIPROCESSORS``."""
    multiprocessors = MULTIPROCESSORS[entry.key]
    clock_hz = entry.flops_per_s["float32"] / (multiprocessors * _FLOPS_PER_CLOCK) * _SUSTAINED
    work = launched.work
    issued_s, waited_s = _of_programs(launched, multiprocessors, clock_hz)
    seconds: dict[Limit, float] = {
        "DRAM": work.dram_bytes(entry.cache_bytes or 0) / (entry.memory_bytes_per_s * _STREAMED),
        "L2": work.moved_bytes / (multiprocessors * _L2_BYTES_PER_CLOCK * clock_hz),
        "FLOPs": work.flops / (entry.flops_per_s[work.rate] * _MULTIPLIED[work.rate]),
        "instructions": issued_s,
        "latency": waited_s,
    }
    limit = max(seconds, key=lambda name: seconds[name])
    return Predicted(1e3 * seconds[limit] + 1e-3 * _KERNEL_US * work.kernels, limit)


def host_ms(launches: Sequence[Launched]) -> float:
    """What the host takes to launch them, eager."""
    return 1e-3 * _HOST_US * len(launches)


def _of_programs(launched: Launched, multiprocessors: int, clock_hz: float) -> tuple[float, float]:
    """Seconds of its instructions, and of its programs' trips to memory; zeros where its machine code is unknown."""
    code = nearest(launched.code) if launched.code else None
    if code is None or not launched.programs:
        return 0.0, 0.0
    instructions = code.instructions + code.loop_instructions * (launched.work.turns - 1)
    busy = min(multiprocessors, launched.programs)
    warps = launched.programs * launched.work.live * code.warps
    issued = warps * instructions / (busy * min(_SCHEDULERS, code.warps * launched.programs))
    at_once = min(code.resident_programs * multiprocessors, launched.programs)
    return issued / clock_hz, launched.programs * launched.work.trips * _TRIP_S / at_once
