"""Compiles every kernel for a GPU that need not be there, and prints what its machine code is: a JSON line a kernel.

    python -m membench.profiler.machine_code 90 128 1024 4096
    python -m membench.profiler.machine_code 80 1024 bag backward

The first number is the GPU's capability (90 a Hopper, 80 an A100), the others are widths of a table's rows; words are
the calls that are wanted, all where there are none.
"""

import json
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict

from membench.profiler.machine_code.compile_only import compile_only
from membench.profiler.machine_code.cubin import code_of
from membench.profiler.machine_code.every_kernel import every_call


def main(capability: int, widths: Iterable[int], wanted: Collection[str]) -> None:
    """Prints the kernels of each call as they are compiled."""
    for each in every_call(widths):
        if wanted and each.what not in wanted:
            continue
        with compile_only(capability) as launches:
            each.call()
        for launch in launches.all:
            code = code_of(launch.kernel, capability)
            told = {"what": each.what, "size": each.size, "kernel": launch.name, "programs": launch.programs}
            read = {"spills_in_loops": code.spills_in_loops, "in_flight_bytes": code.in_flight_bytes}
            print(json.dumps({**told, **read, "main_loop": code.main_loop, **asdict(code)}), flush=True)


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    words = [each for each in sys.argv[1:] if not each.isdigit()]
    main(numbers[0] if numbers else 90, numbers[1:] or [1024], words)
