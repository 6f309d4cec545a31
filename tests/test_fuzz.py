"""Mutated scenarios: each is planned, or refused in one line; nothing else, and never slowly."""

import copy
import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from membench.errors import UsageError
from membench.machine.datasheet import parse_hardware
from membench.planning.planner import make_plan
from membench.scenario.scenario import parse_scenario
from membench.scenario.shipped import shipped_directory
from membench.tables.plan import plan_tables
from membench.yaml_files.reader import parse_mapping

CASES = int(os.environ.get("MEMBENCH_FUZZ_CASES", "300"))
SECONDS = 2.0

SCALARS = [None, True, False, 0, -1, 1, 2, 3, 7, 64, 4096, 65536, 2**20, 2**24, 2**40, 2**63 - 1, -(2**63), 0.5, -0.0]
SCALARS += [1e-300, 5e-324, 1e18, 1e308, 4096.0, "", " ", "16M", "4096^2", "1G", "1e308T", "18XB", "9" * 5000, "9" * 30]
SCALARS += [
    "18GB",
    "auto",
    "dense",
    "memory",
    "moe",
    "peer",
    "memory_plus",
    "os:system",
    ":",
    "a.b:c",
    "forward",
    "decode",
]
SCALARS += [
    "train_step",
    "zipf",
    "trace",
    "uniform",
    "expert",
    "shrink",
    "rank",
    "skip",
    "float16",
    "cuda",
    "../x",
    "é",
    "a\nb",
]
CONTAINERS = [[], {}, [[]], [{}], [1, 2], ["a"], {"a": 1}, {"": None}, {"pow2": [1, 4]}, {"range": [1, 1e300, 1]}]
CONTAINERS += [{"kind": "zipf", "zipf_exponent": 4.0}, {"params": 1e12}, {"value": "1GB", "tokens": 64}]
BYTES = [
    b"\0",
    b"\xff",
    b"\n",
    b"\t",
    b":",
    b"-",
    b"{",
    b"]",
    b"&a",
    b"*a",
    b"!!x",
    b"'",
    b'"',
    b"#",
    b"\r\n",
    b"9",
    b"\xef\xbb\xbf",
]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) of a tree."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def mutate(tree: dict[str, Any], rng: random.Random) -> None:
    """Deletes, copies, replaces, swaps or renames something."""
    holder, key = rng.choice(list(places(tree)) or [(tree, "name")])
    kind = rng.choice(["delete", "copy", "scalar", "scalar", "scalar", "container", "swap", "rename"])
    if kind == "delete":
        del holder[key]
    elif kind == "copy" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif kind == "copy":
        other, _ = rng.choice(list(places(tree)))
        if isinstance(other, dict):
            other[key] = copy.deepcopy(holder[key])
    elif kind == "scalar":
        holder[key] = rng.choice(SCALARS)
    elif kind == "container":
        holder[key] = copy.deepcopy(rng.choice(CONTAINERS))
    elif kind == "swap":
        other, place = rng.choice(list(places(tree)))
        holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
    elif isinstance(holder, dict):
        holder[str(rng.choice(SCALARS))] = holder.pop(key)


def mutated_bytes(text: str, rng: random.Random, most: int) -> bytes:
    """Up to so many places cut, overwritten or repeated."""
    raw = bytearray(text.encode())
    for _ in range(rng.randint(1, most)):
        place = rng.randrange(len(raw))
        raw[place : place + rng.choice([0, 1, 1, 5, 40])] = rng.choice([*BYTES, b"", raw[place : place + 30]])
    return bytes(raw)


def mutated(text: str, rng: random.Random) -> str:
    """A scenario's text, changed in its data (as JSON, which is YAML) or in its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(text, rng, 4).decode(errors="surrogateescape")
    tree = parse_mapping(text, "shipped")
    for _ in range(rng.randint(1, 3)):
        mutate(tree, rng)
    return json.dumps(tree)


def outcome(text: str, rng: random.Random) -> str:
    """``planned`` or ``refused``; any other exception is the test's failure."""
    hardware = rng.choice([None, None, "h100", "h100x8", "l40sx65536"])
    available = rng.choice([1, 4 * 10**9, 24 * 10**9, 10**12])
    try:
        plan = make_plan(
            parse_scenario(text, "fuzz.yaml"),
            hardware=parse_hardware(hardware) if hardware else None,
            available_bytes=available,
        )
    except UsageError as error:
        assert "\n" not in str(error)
        assert len(str(error)) <= 600
        return "refused"
    json.dumps(plan.model_dump(mode="json"), allow_nan=False)
    for table in plan_tables(plan):
        table.cells()
    return "planned"


def test_a_mutated_scenario_is_planned_or_refused(seed):
    rng = random.Random(seed)
    shipped = [path.read_text() for path in sorted(shipped_directory().glob("*.yaml"))]
    seen = {"planned": 0, "refused": 0}
    for number in range(CASES):
        text = mutated(rng.choice(shipped), rng)
        begin = time.process_time()
        try:
            seen[outcome(text, rng)] += 1
        except Exception as error:
            pytest.fail(f"seed {seed}, case {number}: {type(error).__name__}: {error}\n{text}")
        assert time.process_time() - begin < SECONDS, f"seed {seed}, case {number} is slow\n{text}"
    assert all(seen.values()), seen
