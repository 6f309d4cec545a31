"""What each kernel's machine code must keep, read without a GPU: loads in flight, no spills, no atomics.

A multiprocessor of a Hopper reads at the speed of memory with 20 to 30 KiB of rows in flight; more hides that a turn's
loads are asked for together. A change that costs a kernel half of its loads is found here, and not on a GPU.
"""

import json
import os
import subprocess
import sys
from functools import cache

import pytest
from house import ROOT

from membench.profiler.machine_code.code_key import CodeKey
from membench.profiler.machine_code.figures import Figures, recorded, triton_version, write
from membench.profiler.machine_code.occupancy import resident_warps

triton = pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")

KIB = 1024
# At least so many KiB in flight, and at most so many barriers in a turn of the main loop.
KEPT = {
    "bag": (60, 0),
    "_quantized_bag": (32, 0),
    "dots": (60, 1),
    "_read_rows": (128, 2),
    "update_rows": (60, 8),
    "short_runs": (20, 6),
    "long_run_pieces": (48, 5),
    "finish_long_runs": (60, 0),
}
SOME_SPILLED_BYTES = 8  # a pointer, outside of what takes time


@cache
def machine_code(capability, *wanted):
    """A record of each kernel, compiled in a process whose Triton does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "membench.profiler.machine_code", str(capability), "1024", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("capability", "wanted"), [(90, ()), pytest.param(80, ("bag", "backward", "top_k"), marks=pytest.mark.slow)]
)
def test_kernels_keep_their_loads_in_flight_without_spills_or_atomics(capability, wanted):
    kernels = machine_code(capability, *wanted)
    assert wanted or {kernel["kernel"] for kernel in kernels} >= KEPT.keys()
    for kernel in kernels:
        named = f"{kernel['what']} {kernel['size']}: {kernel['kernel']}"
        code = kernel["instructions"]
        assert kernel["stack_bytes"] <= SOME_SPILLED_BYTES, named
        assert not {"ATOMG", "ATOM", "RED"} & code.keys(), f"{named}: sums depend on the order of threads"
        assert not {"LDG.8", "LDG.16"} & code.keys(), f"{named}: narrow loads"
        least_kib, barriers = KEPT.get(kernel["kernel"], (0, None))
        assert kernel["in_flight_bytes"] >= least_kib * KIB, named
        assert barriers is None or kernel["main_loop"].get("BAR", 0) <= barriers, named


def test_sub_keys_are_chosen_by_one_warp():
    """It holds all of a token's scores, and waits for no other: a barrier in its code is its own."""
    assert {kernel["warps"] for kernel in machine_code(90) if kernel["what"] in ("top_k", "scaled top_k")} == {1}


def test_predictions_read_what_the_compiler_makes_now():
    if triton.__version__ != triton_version():
        pytest.skip(f"the figures are of Triton {triton_version()}, this is {triton.__version__}")
    now = {}
    for kernel in machine_code(90):
        now.setdefault(CodeKey(**kernel["key"]), Figures(**kernel["figures"]))
    kept = {key: recorded().get(key) for key in now}
    assert now == kept, "run python -m membench.profiler.machine_code --write"


def test_figures_are_written_as_they_are_read(tmp_path, monkeypatch):
    known = recorded()
    monkeypatch.setattr("membench.profiler.machine_code.figures.FILE", tmp_path / "sm.json")
    recorded.cache_clear()
    write("9.9", [*known.items(), *((key, Figures(1, 1, 1, 1, 1, 1)) for key in known)])
    again, version = recorded(), triton_version()
    recorded.cache_clear()
    assert (again, version) == (known, "9.9")


@pytest.mark.parametrize(
    ("warps", "registers", "shared_bytes", "resident"),
    [
        (1, 32, 0, 32),
        (4, 32, 0, 64),
        (4, 64, 0, 32),
        (4, 57, 0, 32),
        (4, 128, 0, 16),
        (8, 32, 100 * KIB, 16),
        (4, 255, 0, 8),
    ],
)
def test_warps_that_a_multiprocessor_holds(warps, registers, shared_bytes, resident):
    """As the occupancy calculator has them; 57 registers are given out as 64."""
    assert resident_warps(90, warps, registers, shared_bytes) == resident


def test_interpreted_kernels_are_refused():
    command = [sys.executable, "-m", "membench.profiler.machine_code"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=ROOT
    )
    assert done.returncode != 0 and "interpreted" in done.stderr
