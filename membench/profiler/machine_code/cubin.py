"""A kernel's machine code: its registers, its instructions, and what its loops do."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

from membench.profiler.machine_code.occupancy import resident_warps

_DISASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.a-z]+)([^;]*);")
_USE = re.compile(r"REG:(\d+) STACK:(\d+)")
_TARGET = re.compile(r"0x([0-9a-f]+)")
_OF_A_LOOP = 0x20  # bytes: a branch over less is where the code waits at its end
_THREADS = 32
_MEMORY = ("LDG", "STG", "LDS", "STS")


@dataclass(frozen=True, slots=True)
class Code:
    """What a kernel's machine code is.

    Args:
        instructions: by name how many the code has; loads and stores with their bits, as in ``LDG.128``.
        loops: the same of each loop, the shortest first.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    warps: int
    resident_warps: int
    instructions: dict[str, int]
    loops: tuple[dict[str, int], ...]

    @property
    def spills_in_loops(self) -> bool:
        """Whether registers did not suffice in the code that is run more than once."""
        return any(loop.get("LDL", 0) or loop.get("STL", 0) for loop in self.loops)

    @property
    def main_loop(self) -> dict[str, int]:
        """The innermost of those that load rows, 128 bits at a time; the whole code where none does."""
        return next((loop for loop in self.loops if loop.get("LDG.128")), self.instructions)

    @property
    def in_flight_bytes(self) -> int:
        """Bytes that a multiprocessor has asked for at once: of one turn of the main loop, 128 bits at a time."""
        return self.main_loop.get("LDG.128", 0) * 16 * _THREADS * self.resident_warps


def code_of(kernel: Any, capability: int) -> Code:
    """Reads what Triton compiled.

    Raises:
        FileNotFoundError: this Triton brings no disassembler.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        command = [_DISASSEMBLER, "-sass", "-res-usage", cubin]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    sass = done.stdout
    known = _USE.search(done.stdout + done.stderr)
    assert known is not None, f"no use of registers in {done.stdout[:500]!r} {done.stderr!r}"
    registers, stack_bytes = map(int, known.groups())
    instructions = [(int(address, 16), name, rest) for address, name, rest in _INSTRUCTION.findall(sass)]
    loops = sorted(
        ([each for each in instructions if begin <= each[0] <= end] for begin, end in _loops(instructions)), key=len
    )
    warps, shared_bytes = kernel.metadata.num_warps, kernel.metadata.shared
    return Code(
        registers,
        stack_bytes,
        shared_bytes,
        warps,
        resident_warps(capability, warps, registers, shared_bytes),
        _counted(instructions),
        tuple(map(_counted, loops)),
    )


def _loops(instructions: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """From where to where: of the branches that go back."""
    found = []
    for address, name, rest in instructions:
        target = _TARGET.search(rest) if name.startswith("BRA") else None
        if target and address - int(target[1], 16) >= _OF_A_LOOP:
            found.append((int(target[1], 16), address))
    return found


def _counted(instructions: list[tuple[int, str, str]]) -> dict[str, int]:
    return dict(Counter(_named(name) for _, name, _ in instructions))


def _named(name: str) -> str:
    """An instruction without its variants, but with its bits where it loads or stores."""
    base, *variants = name.split(".")
    if base not in _MEMORY:
        return base
    bits = next((each for each in variants if each in ("128", "64")), None)
    narrow = next((each[1:] for each in variants if each in ("U8", "S8", "U16", "S16")), "32")
    return f"{base}.{bits or narrow}"
