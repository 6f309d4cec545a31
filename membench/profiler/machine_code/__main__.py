"""Compiles every kernel for a GPU that need not be there, and prints what its machine code is: a JSON line a kernel.

    python -m membench.profiler.machine_code 90 128 1024 4096
    python -m membench.profiler.machine_code 80 1024 bag backward
    python -m membench.profiler.machine_code --write
    python -m membench.profiler.machine_code --write "bag int8" clock

The first number is the GPU's capability (90 a Hopper, 80 an A100), the others are widths of a table's rows; words are
the calls that are wanted, all where there are none. ``--write`` keeps what predictions need of it (``figures``); with
words after it that of these calls, and of all others what was kept before.
"""

import json
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict

import triton

from membench.profiler.machine_code.code_key import CodeKey, code_key
from membench.profiler.machine_code.compile_only import Launch, compile_only
from membench.profiler.machine_code.cubin import Code, code_of
from membench.profiler.machine_code.every_kernel import Calls, every_call
from membench.profiler.machine_code.figures import CAPABILITY, WIDTHS, Figures, record, recorded, triton_version, write


def compiled(capability: int, widths: Iterable[int], wanted: Collection[str]) -> Iterator[tuple[Calls, Launch, Code]]:
    """Every kernel of the wanted calls, as it is compiled."""
    for each in every_call(widths):
        if wanted and each.what not in wanted:
            continue
        with compile_only(capability) as launches:
            each.call()
        for launch in launches.all:
            yield each, launch, code_of(launch.kernel, capability)


def figures_of(launch: Launch, code: Code) -> tuple[CodeKey, Figures]:
    """What predictions need."""
    loop = code.main_loop if code.main_loop is not code.instructions else {}
    return code_key(launch.name, launch.constants), Figures(
        warps=code.warps,
        registers=code.registers,
        resident_warps=code.resident_warps,
        in_flight_bytes=code.in_flight_bytes,
        instructions=sum(code.instructions.values()),
        loop_instructions=sum(loop.values()),
    )


def main(capability: int, widths: Iterable[int], wanted: Collection[str]) -> None:
    """Prints the kernels of each call as they are compiled."""
    for each, launch, code in compiled(capability, widths, wanted):
        told = {"what": each.what, "size": each.size, "kernel": launch.name, "programs": launch.programs}
        read = {"spills_in_loops": code.spills_in_loops, "in_flight_bytes": code.in_flight_bytes}
        kept = record(*figures_of(launch, code))
        print(json.dumps({**told, **read, **kept, "main_loop": code.main_loop, **asdict(code)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        now = [figures_of(launch, code) for _, launch, code in compiled(CAPABILITY, WIDTHS, sys.argv[2:])]
        kept = recorded().items() if sys.argv[2:] and triton_version() == triton.__version__ else ()
        write(triton.__version__, [*now, *kept])
    else:
        numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
        words = [each for each in sys.argv[1:] if not each.isdigit()]
        main(numbers[0] if numbers else CAPABILITY, numbers[1:] or [1024], words)
