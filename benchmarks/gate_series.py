"""Records real timings on which any regression rule can be judged: the same code, and the same code slowed.

    python -m benchmarks.gate_series quiet --rounds 400 --output results
    python -m benchmarks.gate_series loaded --rounds 400 --output results

A round has one fresh process for every variant: each is forked from one that has only imported
torch, builds the layers and warms up. Then they are timed in turn, a call at a time, in mirrored
random order (v1 v2 … v2 v1), so that any two variants stand as ABBA; all others wait meanwhile.
``same`` is ``base`` unchanged; ``slow5`` does extra work in every call, sized in each round, from
calls of all variants without any, to 5 % of the call. ``loaded``: another process works for some
seconds now and then. ``benchmarks.gate_quality`` judges what was recorded.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cached_property
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from membench.case import Case
from membench.errors import UsageError
from membench.git.commit import running_commit
from membench.layers.factory import build
from membench.layers.spec import DenseSpec, MemorySpec
from membench.machine.device import cache_bytes, usable_cores
from membench.machine.provenance import probe_environment, result_stem, utc_now
from membench.measuring.inputs import make_inputs, pool_size
from membench.measuring.step import make_step
from membench.measuring.time import Clock, StepCall
from membench.processes.environment import measuring_environment
from membench.processes.serving import live_no_longer_than
from membench.processes.signals import ended_as_interrupted
from membench.running.progress import RunProgress
from membench.running.worker import prepare_process

SLOWDOWNS = {"base": 0.0, "same": 0.0, "slow3": 0.03, "slow5": 0.05, "slow10": 0.10}
_QUADS = 16  # mirrored orders a round: 32 samples of each variant and case
_WARMUP_CALLS = 8
_UNITS = 100
_LOAD_SECONDS, _IDLE_SECONDS = (2.0, 8.0), (4.0, 16.0)  # about a third of the time

_MEMORY = MemorySpec(kind="memory", model_dim=256, num_keys=128**2, heads=2, top_k=16, key_dim=128, dtype="float32")
_DENSE = DenseSpec(model_dim=256, ffn_hidden=1024, dtype="float32")
CASES = {
    "dense forward": (_DENSE, "forward"),
    "memory forward": (_MEMORY, "forward"),
    "memory forward_backward": (_MEMORY, "forward_backward"),
}
_TOKENS = 32
_THREADS = 1  # with all cores of a shared machine, a core that is taken away stops both


def _unit() -> Callable[[], object]:
    """A small vector product: about a microsecond of one core."""
    a = torch.rand(1024)
    return lambda: torch.mul(a, a, out=a)


def build_steps() -> dict[str, StepCall]:
    """Every case's step, on layers built in this process."""
    past_bytes = cache_bytes("cpu")
    built: dict[Any, Any] = {}
    steps = {}
    for name, (spec, mode) in CASES.items():
        layer = built.setdefault(spec, build(spec))
        case = Case(arm=spec.kind, mode=mode, layer=spec, tokens=_TOKENS)
        inputs = make_inputs(layer, case, min(16, pool_size(case, past_bytes)), "cpu")
        steps[name] = make_step(mode, layer, layer, inputs, torch.randn_like(inputs[0].x), None)
    return steps


def serve(pipe: Connection) -> None:
    """In a forked process: builds every case, then times calls of the case asked for, with extra work."""
    steps, unit = build_steps(), _unit()
    prepare_process(_THREADS)  # not before: all would build on one core
    clock, inputs = Clock("cpu"), count()
    pipe.send(statistics.median(clock.seconds(lambda _: unit(), inputs, _UNITS) for _ in range(_UNITS)))
    while (asked := pipe.recv()) is not None:
        case, units = asked
        step = steps[case]

        def call(i: int, step: StepCall = step, units: int = units) -> None:
            step(i)
            for _ in range(units):
                unit()

        pipe.send(clock.seconds(call, inputs, 1))
    os._exit(0)  # an orderly end takes longer than the measurement


class Forked:
    """A process that serves; a context manager that waits for its end. ``unit_s``: what a unit of extra work takes."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there,), daemon=True)
        self._process.start()
        there.close()

    @cached_property
    def unit_s(self) -> float:
        return self._pipe.recv()

    def seconds(self, case: str, units: int) -> float:
        self._pipe.send((case, units))
        return self._pipe.recv()

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *reason: object) -> None:
        with suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join()


Samples = dict[str, dict[str, list[int]]]  # variant -> case -> nanoseconds


def measure_round(draw: random.Random) -> Samples:
    """One round: a fresh process a variant, timed in turn."""
    samples: Samples = {variant: {case: [] for case in CASES} for variant in SLOWDOWNS}
    with ExitStack() as stack:
        processes = {variant: stack.enter_context(Forked()) for variant in SLOWDOWNS}
        unit_s = statistics.median(process.unit_s for process in processes.values())
        for case in CASES:
            warm = [p.seconds(case, 0) for _ in range(_WARMUP_CALLS) for p in processes.values()]
            call_s = statistics.median(warm[len(processes) :])
            units = {variant: round(share * call_s / unit_s) for variant, share in SLOWDOWNS.items()}
            for _ in range(_QUADS):
                order = draw.sample(list(SLOWDOWNS), len(SLOWDOWNS))
                for variant in [*order, *reversed(order)]:
                    samples[variant][case].append(round(1e9 * processes[variant].seconds(case, units[variant])))
    return samples


def record(rounds: int, seed: int) -> list[Samples]:
    """All rounds."""
    draw, found = random.Random(seed), []
    with RunProgress(rounds) as progress:
        for number in range(rounds):
            found.append(measure_round(draw))
            if number % 20 == 19:
                progress.note(f"{number + 1} of {rounds} rounds")
    return found


def disturb(seed: int, parent: int) -> None:
    """As long as its parent lives: multiplies matrices on all cores for some seconds, then rests for some."""
    live_no_longer_than(parent)
    draw = random.Random(seed)
    torch.set_num_threads(len(usable_cores()))
    a = torch.rand(512, 512)
    while True:
        end = time.perf_counter() + draw.uniform(*_LOAD_SECONDS)
        while time.perf_counter() < end:
            torch.mm(a, a)
        time.sleep(draw.uniform(*_IDLE_SECONDS))


@contextmanager
def load(seed: int) -> Iterator[None]:
    """Inside, another process works on all cores about a third of the time.

    Raises:
        UsageError: it ended before what it was to disturb.
    """
    context = multiprocessing.get_context("fork")
    process = context.Process(target=disturb, args=(seed, os.getpid()), daemon=True)
    process.start()
    try:
        yield
        if not process.is_alive():
            raise UsageError(f"the process that was to be the load ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Records one condition into a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("condition", choices=["quiet", "loaded"])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results"))
    asked = parser.parse_args()
    if "GOMP_SPINCOUNT" not in os.environ:
        # Unbound: binding would leave the forked processes only the core that this one was bound to.
        unbound = measuring_environment() | {"OMP_PROC_BIND": "false"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.gate_series", *sys.argv[1:]], unbound)
    environment, started = probe_environment("cpu"), utc_now()
    torch.set_num_threads(_THREADS)  # no pool of threads may exist where a process is forked
    with ended_as_interrupted(), load(asked.seed) if asked.condition == "loaded" else nullcontext():
        rounds = record(asked.rounds, asked.seed)
    sha = running_commit().sha
    path = asked.output / f"{result_stem(f'gate_series_{asked.condition}', environment['device'], started, sha)}.json"
    content = {
        "benchmark": "gate_series",
        "condition": asked.condition,
        "started": started,
        "finished": utc_now(),
        "git_sha": sha,
        "environment": environment,
        "slowdowns_asked": SLOWDOWNS,
        "cases": list(CASES),
        "threads": _THREADS,
        "samples_ns": rounds,
    }
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(path)


if __name__ == "__main__":
    main()
