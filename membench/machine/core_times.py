"""How long cores were idle, and how long the hypervisor ran others on them, by ``/proc/stat``."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from membench.machine.cgroup import ROOT

TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # places in a line; those after steal are parts of those before
_BYTES = 2**16  # the lines of 1024 cores; interrupts follow


class CoreTimes(NamedTuple):
    """Seconds of some cores together since boot: idle, stolen by the hypervisor, and all that is told."""

    idle_s: float
    stolen_s: float
    told_s: float


def read_core_times(cores: Collection[int], root: Path = ROOT) -> CoreTimes | None:
    """None where not all of these cores are told of, or not what a hypervisor took."""
    try:
        with (root / "proc/stat").open("rb", buffering=0) as file:
            lines = file.read(_BYTES).splitlines()
    except OSError:
        return None
    wanted = {b"cpu%d" % core for core in cores}
    idle = stolen = told = 0
    for line in lines:
        name, *fields = line.split()
        if name in wanted:
            if len(fields) <= _STEAL:
                return None
            wanted.remove(name)
            ticks = [int(field) for field in fields[: _STEAL + 1]]
            idle += ticks[_IDLE] + ticks[_IOWAIT]
            stolen += ticks[_STEAL]
            told += sum(ticks)
    return None if wanted else CoreTimes(idle * TICK_S, stolen * TICK_S, told * TICK_S)
