"""The bag beside the fastest that this machine reads random rows of the same table.

A floor is the bytes that must be moved (``layers.spec.accounting.row_reads``) at the measured random-row
ceiling. Backward plus update reads and writes every distinct row, gathers dy, and sorts the lookups, whose
time counts.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from benchmarks.memory_step_parts.against_public import INPUTS
from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import short_of_memory
from membench.layers.kernels.lookups import Lookups
from membench.layers.kernels.row_passes import row_backward_update_, weighted_bag
from membench.layers.kernels.row_update import RowState, RowStep
from membench.layers.memory import Memory
from membench.layers.spec import Step, accounting
from membench.machine.device import cache_bytes
from membench.measuring.ceilings import random_row_ceiling
from membench.measuring.time import Clock, Sampling, StepCall, sample

_BAG_GOAL, _UPDATE_GOAL = 0.9, 2.0
_SAMPLING = Sampling(min_samples=INPUTS, floor_samples=INPUTS, max_seconds=1.0, warmup_seconds=0.05)
Rule = Literal["sgd", "row_adagrad"]


@dataclass(frozen=True, slots=True)
class _Reads:
    """One batch: the rows that it reads (B, L) with their weights, and dy (B, D)."""

    rows: Tensor
    weights: Tensor
    dy: Tensor


@dataclass(slots=True)
class _Timed:
    """A step with its floor in bytes; by round, the floor's seconds and the step's median and best."""

    step: StepCall
    floor_bytes: float
    floor_s: list[float] = field(default_factory=list)
    median_s: list[float] = field(default_factory=list)
    best_s: list[float] = field(default_factory=list)

    def measure(self, clock: Clock, ceiling: float) -> None:
        samples = sample(clock, self.step, _SAMPLING)
        self.floor_s.append(self.floor_bytes / ceiling)
        self.median_s.append(samples.median_s)
        self.best_s.append(min(samples.seconds))


def measure_floors(sizes: Sizes) -> Findings:
    """The ceiling and every step in each round; all read the same table."""
    bag = "bag forward: random-row floor over time"
    updates = {rule: f"bag backward + {rule}: time over byte floor" for rule in ("sgd", "row_adagrad")}
    if reason := short_of_memory(1.1 * sizes.table_bytes() + 2**30):
        missing = [Answer(question, goal=_UPDATE_GOAL, at_most=True, reason=reason) for question in updates.values()]
        return Findings([Answer(bag, goal=_BAG_GOAL, reason=reason), *missing])
    layer, clock = Memory(sizes.spec()), Clock("cpu")
    with torch.no_grad():
        steps, unique_rows = _steps(layer, sizes)
        ceilings = []
        for _ in range(sizes.rounds):
            ceilings.append(random_row_ceiling(clock, layer.table.weight))
            for each in steps.values():
                each.measure(clock, ceilings[-1])
    forward = steps["forward"]
    names = ("floor", "ours")
    answers = [Answer.of_times(bag, forward.floor_s, forward.median_s, names, goal=_BAG_GOAL)]
    for rule, question in updates.items():
        taken, goal = steps[rule], {"goal": _UPDATE_GOAL, "at_most": True}
        answers.append(Answer.of_times(question, taken.median_s, taken.floor_s, ("ours", "floor"), **goal))
    answers.append(Answer.of_times(f"{bag}, best of each round", forward.floor_s, forward.best_s, names))
    facts = {name: {"floor_bytes": each.floor_bytes, "best_s": each.best_s} for name, each in steps.items()}
    huge = layer.table.huge_pages
    ceiling = {"random_row_bytes_per_s": ceilings, "table_on_huge_pages": huge, "unique_rows": unique_rows}
    line = f"random-row ceiling {statistics.median(ceilings) / 1e9:.1f} GB/s, {unique_rows:.0f} distinct rows a step"
    return Findings(answers, {**facts, **ceiling}, [line])


def _steps(layer: Memory, sizes: Sizes) -> tuple[dict[str, _Timed], float]:
    """The bag and its backward with each rule's update, on rows that the layer chose; and their distinct rows."""
    table, reads = layer.table.weight, [_reads(layer, sizes) for _ in range(INPUTS)]
    unique_rows = statistics.mean(len(each.rows.unique()) for each in reads)

    def floor_bytes(rule: Rule) -> tuple[float, float]:
        """What the bag, and its backward with the rule's update, must move at least."""
        forward, backward = accounting.row_reads(
            "bag",
            Step(sizes.tokens, mode="train_step", optimizer=rule, cache_bytes=cache_bytes("cpu")),
            lookups=reads[0].rows.numel(),
            unique_rows=unique_rows,
            row_elements=sizes.model_dim,
            tables=1,
            bag_elements=sizes.tokens * sizes.model_dim,
            item_bytes=4,
        )
        return forward.bytes_dram_expected, backward.bytes_dram_expected

    def on_reads(call: Callable[[_Reads], object]) -> StepCall:
        return lambda number: call(reads[number % INPUTS])

    steps = {
        "forward": _Timed(on_reads(lambda each: weighted_bag(table, each.rows, each.weights)), floor_bytes("sgd")[0])
    }
    for rule in ("sgd", "row_adagrad"):
        state, step = RowState.of(table, rule), RowStep(rule, learning_rate=0.0)

        def update(each: _Reads, state: RowState = state, step: RowStep = step) -> None:
            runs = Lookups(each.rows, len(table)).runs
            row_backward_update_(table, state, runs, each.weights, each.dy, step, dots=True)

        steps[rule] = _Timed(on_reads(update), floor_bytes(rule)[1])
    return steps, unique_rows


def _reads(layer: Memory, sizes: Sizes) -> _Reads:
    x, dy = (torch.randn(sizes.tokens, sizes.model_dim) for _ in range(2))
    chosen = layer.select(x)
    return _Reads(chosen.indices.flatten(1), chosen.weights.flatten(1), dy)
