"""How many warps a multiprocessor holds at once (CUDA C++ Programming Guide, compute capabilities)."""

from dataclasses import dataclass

_THREADS = 32
_PARTITIONS = 4
"""Each has a fourth of the registers, and warps of its own."""
_REGISTERS_AT_A_TIME = 256
_OWN_SHARED_BYTES = 1024
"""The system's, of each program."""


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What programs share."""

    registers: int
    warps: int
    programs: int
    shared_bytes: int


MULTIPROCESSORS = {
    80: Multiprocessor(65536, 64, 32, 164 * 1024),
    90: Multiprocessor(65536, 64, 32, 228 * 1024),
}


def resident_warps(capability: int, warps: int, registers: int, shared_bytes: int) -> int:
    """Of programs of so many warps, of so many registers a thread, those that a multiprocessor holds at once."""
    of = MULTIPROCESSORS[capability]
    of_warp = -(-registers * _THREADS // _REGISTERS_AT_A_TIME) * _REGISTERS_AT_A_TIME
    by_registers = of.registers // _PARTITIONS // max(of_warp, 1) * _PARTITIONS // warps
    by_shared = of.shared_bytes // (shared_bytes + _OWN_SHARED_BYTES)
    return warps * min(of.programs, of.warps // warps, by_registers, by_shared)
