"""What predictions need of each kernel's machine code, kept in a file, because compiling all of them takes minutes.

    python -m membench.profiler.machine_code --write      # after a kernel has changed

writes it; a test holds it against the compiler. Triton's version is in it: another one's code is other code.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from membench.files import write_whole
from membench.profiler.machine_code.code_key import CodeKey

CAPABILITY = 90
WIDTHS = (128, 256, 512, 1024, 2048, 4096)
FILE = Path(__file__).with_name(f"sm_{CAPABILITY}.json")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one kernel's machine code.

    Args:
        warps: of a program.
        resident_warps: that a multiprocessor holds at once.
        in_flight_bytes: of rows, that a multiprocessor has asked for at once.
        instructions: of the whole code, loops once.
        loop_instructions: of the loop that loads rows; 0 where there is none.
    """

    warps: int
    registers: int
    resident_warps: int
    in_flight_bytes: int
    instructions: int
    loop_instructions: int

    @property
    def resident_programs(self) -> int:
        """That a multiprocessor holds at once."""
        return self.resident_warps // self.warps


@cache
def recorded() -> dict[CodeKey, Figures]:
    """Those of the file."""
    told = json.loads(FILE.read_text(encoding="utf-8"))
    return {CodeKey(**each["key"]): Figures(**each["figures"]) for each in told["kernels"]}


def triton_version() -> str:
    """Of the compiler that the file is from."""
    return json.loads(FILE.read_text(encoding="utf-8"))["triton"]


def nearest(key: CodeKey) -> Figures | None:
    """The figures of a kernel; of a width or a variant that nobody compiled, those of the next width to it.

    Returns:
        None where the kernel is not in the file at all.
    """

    def distance(known: CodeKey) -> tuple[bool, float]:
        apart = max(known.size, key.size, 1) / max(1, min(known.size, key.size))
        return known.variant != key.variant, apart

    alike = [known for known in recorded() if known.kernel == key.kernel]
    return recorded()[min(alike, key=distance)] if alike else None


def write(version: str, found: Iterable[tuple[CodeKey, Figures]]) -> None:
    """Writes the file, a line a kernel; of equal keys the first counts."""
    unique: dict[CodeKey, Figures] = {}
    for key, figures in found:
        unique.setdefault(key, figures)
    lines = [json.dumps(record(key, unique[key])) for key in sorted(unique)]
    body = ",\n".join(lines)
    head = f'"triton": {json.dumps(version)}, "capability": {CAPABILITY}'
    write_whole(FILE, f'{{{head}, "kernels": [\n{body}\n]}}\n'.encode())


def record(key: CodeKey, figures: Figures) -> dict[str, Any]:
    """One kernel as JSON."""
    return {"key": key._asdict(), "figures": asdict(figures)}
