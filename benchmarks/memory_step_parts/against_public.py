"""A training step, ours against public-style ones, as users run them and on huge pages.

Ours updates the rows it read, in the backward pass itself. Theirs has a gradient as large as the table and Adam
over all of it; or, beside it, a sparse gradient and the same row-wise Adagrad. The learning rate is 0: all the
work is done, and the weights stay as they are.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import (
    HUGE_PAGES,
    Child,
    ChildDied,
    questions,
    short_of_memory,
    users_environment,
)
from benchmarks.memory_step_parts.turns import take_turns
from benchmarks.public_memory import PlainRowAdagrad
from membench.layers.factory import build
from membench.layers.kernels.pages import on_huge_pages
from membench.layers.kernels.row_update import RowOptimizer
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.public.embedding_bag import BagMemory
from membench.measuring.inputs import Input
from membench.measuring.step import make_step
from membench.measuring.time import Clock, StepCall

INPUTS = 8  # batches that take turns: together they read several times the last-level cache
Pages = Literal["default", "huge"]
TheirOptimizer = Literal["adam", "adam_fused", "row_adagrad"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What trains their layer, and what trains ours.

    Attributes:
        tables: memory theirs needs at most, in tables: gradient and moments, and what a step computes between.
        calls: of theirs in a row; their median counts.
        goals: of theirs over ours, by page setting.
    """

    theirs: TheirOptimizer
    ours: RowOptimizer
    name: str
    tables: float
    calls: int = 1
    goals: Mapping[Pages, float] = field(default_factory=dict)


# on default pages, which is how a user runs both, and with the same page setting; the others stand beside
_GOALS: Mapping[Pages, float] = {"default": 20.0, "huge": 10.0}
PAIRS = (
    Pair("adam", "row_adagrad", "dense Adam", tables=6, goals=_GOALS),
    Pair("adam", "row_adam", "dense Adam", tables=6, goals=_GOALS),
    Pair("adam_fused", "row_adagrad", "dense Adam, fused=True", tables=4),
    Pair("row_adagrad", "row_adagrad", "sparse gradient, row_adagrad", tables=1.5, calls=3),
)
_PAGES: dict[Pages, dict[str, str]] = {"default": {}, "huge": HUGE_PAGES}  # what each sets in the environment
_OUR_CALLS = 5
_WARMUP_ROUNDS = 2


def compare_training_steps(sizes: Sizes, pages: Pages) -> Findings:
    """Every pair, one after the other: two processes of theirs would not fit at a time."""
    answers, facts = [], {}
    for pair in PAIRS:
        question, goal = f"train_step, {pair.name} over our {pair.ours}, {pages} pages", pair.goals.get(pages)
        ours = 2 if pair.ours == "row_adam" else 1  # its first moment is as large as the table
        try:
            if reason := short_of_memory((ours + pair.tables) * sizes.table_bytes() + 2**30):
                raise ChildDied("oom", reason)
            seconds, on_huge = _compared(sizes, pair, users_environment() | _PAGES[pages])
        except ChildDied as death:
            answers.append(Answer(question, goal=goal, reason=death.reason))
            continue
        answers.append(Answer.of_times(question, seconds["theirs"], seconds["ours"], ("theirs", "ours"), goal=goal))
        facts[question] = {"seconds": seconds, "table_on_huge_pages": on_huge}
    return Findings(answers, facts)


def _compared(
    sizes: Sizes, pair: Pair, environment: Mapping[str, str]
) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """Seconds of both in every round, and whether their tables really lie on huge pages."""
    with (
        Child(environment, serve, our_step, sizes, pair.ours) as ours,
        Child(environment, serve, their_step, sizes, pair.theirs) as theirs,
    ):
        on_huge = {"theirs": theirs.receive(), "ours": ours.receive()}
        # a child counts its own inputs
        ways = {"theirs": lambda _: theirs.ask(pair.calls), "ours": lambda _: ours.ask(_OUR_CALLS)}
        return take_turns(ways, sizes.rounds, _WARMUP_ROUNDS), on_huge


def serve(
    pipe: Connection, make: Callable[[Sizes, Any], tuple[StepCall, Tensor]], sizes: Sizes, optimizer: str
) -> None:
    """In a process of its own: says whether the table lies on huge pages, then times as many calls as asked for."""
    step, table = make(sizes, optimizer)
    clock, inputs = Clock("cpu"), count()
    pipe.send(on_huge_pages(table))
    for calls in questions(pipe):
        pipe.send(statistics.median(clock.seconds(step, inputs, 1) for _ in range(calls)))


def our_step(sizes: Sizes, optimizer: RowOptimizer) -> tuple[StepCall, Tensor]:
    """One training step on input number i, gradient of the input included; and the table it reads."""
    spec, (batches, dy) = sizes.spec(), _batches(sizes)
    layer = build(spec)
    inputs = [Input(x, None) for x in batches]
    step = make_step("train_step", layer, layer, inputs, dy, LayerOptimizer(layer, optimizer, 0.0))
    return step, layer.tables()[0].weight


def their_step(sizes: Sizes, optimizer: TheirOptimizer) -> tuple[StepCall, Tensor]:
    """The same of theirs."""
    batches, dy = _batches(sizes)
    layer = BagMemory(sizes.spec(), torch.float32, sparse=optimizer == "row_adagrad")
    optimizers = _their_optimizers(layer, optimizer)

    def step(i: int) -> None:
        layer.zero_grad(set_to_none=True)
        layer(batches[i % INPUTS].detach().requires_grad_(True)).backward(dy)
        for each in optimizers:
            each.step()

    return step, layer.bag.weight


def _batches(sizes: Sizes) -> tuple[list[Tensor], Tensor]:
    batches = [torch.randn(sizes.tokens, sizes.model_dim) for _ in range(INPUTS)]
    return batches, torch.randn_like(batches[0])


def _their_optimizers(layer: BagMemory, which: TheirOptimizer) -> Sequence[torch.optim.Optimizer | PlainRowAdagrad]:
    if which == "row_adagrad":
        matrices = torch.optim.AdamW([layer.query, layer.keys], lr=0.0, fused=True)  # as ours has them
        return [matrices, PlainRowAdagrad(layer.bag.weight, 0.0)]
    return [torch.optim.Adam(layer.parameters(), lr=0.0, fused=which == "adam_fused" or None)]
