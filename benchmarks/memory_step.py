"""What a training step of a memory layer costs beside public-style code, smaller tables and the hardware's floor.

    python -m benchmarks.memory_step [--json]
    python -m benchmarks.memory_step --largest [--json]

Every answer is a ratio of two times that were taken in turns within a round; the median over the rounds
counts. Each part has a process of its own. A training step against the public-style layer runs as a user
starts it, everything else in the environment in which membench measures. The default sizes need 17 GiB of
free memory, ``--largest`` 19; what does not fit is left out, and says so. Run it alone.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from pydantic import ValidationError

from benchmarks.memory_step_parts.against_public import compare_training_steps
from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.floors import measure_floors
from benchmarks.memory_step_parts.forward import compare_forwards
from benchmarks.memory_step_parts.growth import measure_growth
from benchmarks.memory_step_parts.largest import train_largest
from benchmarks.memory_step_parts.processes import ChildDied, call
from benchmarks.writing import heading
from membench.errors import usage_error
from membench.layers.kernels.paths import path_of
from membench.layers.spec import MemorySpec
from membench.layers.spec.quantities import format_num_keys, parse_num_keys
from membench.machine.provenance import utc_now
from membench.running.progress import RunProgress

_LARGEST_KEYS = 4096**2
PARTS: dict[str, Callable[[Sizes], Findings]] = {
    # these start processes of another environment themselves
    "training": lambda sizes: compare_training_steps(sizes, "default"),
    "training_on_huge_pages": lambda sizes: compare_training_steps(sizes, "huge"),
    "growth": lambda sizes: call(measure_growth, sizes),
    "forward": lambda sizes: call(compare_forwards, sizes),
    "floors": lambda sizes: call(measure_floors, sizes),
}
LARGEST: dict[str, Callable[[Sizes], Findings]] = {"largest": lambda sizes: call(train_largest, sizes)}


def measure(parts: dict[str, Callable[[Sizes], Findings]], sizes: Sizes) -> dict[str, Findings]:
    """Every part, one after the other."""
    found = {}
    with RunProgress(len(parts), every_step=True) as progress:
        for name, part in parts.items():
            progress.doing(name)
            try:
                found[name] = part(sizes)
            except (ChildDied, ArithmeticError) as error:  # what other parts found is kept
                found[name] = Findings([Answer(name, reason=str(error))])
            progress.finished("\n".join([name, *(answer.line() for answer in found[name].answers)]))
    return found


def as_json(found: dict[str, Findings], sizes: Sizes, started: str) -> dict[str, Any]:
    """The result file."""
    return {
        **heading("memory_step", started),
        "path": path_of(torch.empty(0)),
        "sizes": {**asdict(sizes), "optimizer": "row_adagrad"},
        "answers": [answer.as_json() for part in found.values() for answer in part.answers],
        "facts": {name: part.facts for name, part in found.items()},
    }


def print_table(found: dict[str, Findings], sizes: Sizes) -> None:
    """What was compared, the answer, the goal."""
    layer = (
        f"d {sizes.model_dim}, {sizes.heads} heads, top_k {sizes.top_k}, key_dim {sizes.key_dim}, {sizes.tokens} tokens"
    )
    keys, path = format_num_keys(sizes.num_keys), path_of(torch.empty(0))
    print(f"{layer}, {sizes.dtype}, {keys} keys where nothing else is said; path {path}")
    for part in found.values():
        print("\n".join(["", *(answer.line() for answer in part.answers), *part.explanation]))


def parse() -> tuple[Sizes, dict[str, Callable[[Sizes], Findings]], bool]:
    """The command line: sizes, the parts that were asked for, whether as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Sizes()
    parser.add_argument("--keys", default=default.num_keys, help="of what is compared at one size, 1M if left out")
    parser.add_argument("--key-dim", type=int, default=default.key_dim)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--only", choices=list(PARTS), help="one part alone")
    parser.add_argument("--largest", action="store_true", help=f"instead: train {_LARGEST_KEYS} keys in bf16")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error(f"--rounds {asked.rounds}: at least 1")
    try:
        sizes = Sizes(num_keys=parse_num_keys(asked.keys), key_dim=asked.key_dim, rounds=asked.rounds)
        sizes.spec()
    except ValidationError as error:
        parser.error(str(usage_error(error, MemorySpec)))
    except ValueError as error:
        parser.error(f"--keys: {error}")
    if asked.largest and (asked.only or asked.keys != default.num_keys):
        parser.error(f"--largest trains {_LARGEST_KEYS} keys and nothing else: leave out --only and --keys")
    if asked.largest:
        return replace(sizes, num_keys=_LARGEST_KEYS, key_counts=(), rounds=1, dtype="bfloat16"), LARGEST, asked.json
    parts = {asked.only: PARTS[asked.only]} if asked.only else PARTS
    return sizes, parts, asked.json


def main() -> None:
    """Measure, and print a table or JSON."""
    sizes, parts, wants_json = parse()
    started, found = utc_now(), measure(parts, sizes)
    if wants_json:
        print(json.dumps(as_json(found, sizes, started), allow_nan=False))
    else:
        print_table(found, sizes)


if __name__ == "__main__":
    main()
