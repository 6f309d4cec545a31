"""A training step, ours against public-style ones, as users run them and on huge pages.

Ours updates the rows it read (row-wise Adagrad, in the backward pass itself). Theirs has a gradient as large
as the table and Adam over all of it; or, beside it, a sparse gradient and the same row-wise Adagrad. The
learning rate is 0: all the work is done, and the weights stay as they are.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count, product
from multiprocessing.connection import Connection
from typing import Literal

import torch

from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import HUGE_PAGES, Child, questions, short_of_memory, users_environment
from benchmarks.memory_step_parts.turns import take_turns
from benchmarks.public_memory import PlainRowAdagrad
from layers.factory import build
from layers.optim import LayerOptimizer
from layers.pages import on_huge_pages
from layers.peers.embedding_bag import BagMemory
from membench.case import Case
from membench.inputs import Input
from membench.measure.time import Clock, Step
from membench.measurement import make_step
from membench.worker_process import WorkerDied

Theirs = Literal["adam", "adam_fused", "row_adagrad"]
OURS = "ours"

INPUTS = 8  # batches that take turns: together they read several times the last-level cache
_NAMES: dict[Theirs, str] = {
    "adam": "dense Adam",
    "adam_fused": "dense Adam, fused=True",
    "row_adagrad": "sparse gradient, row Adagrad",
}
_PAGES: dict[str, dict[str, str]] = {"default": {}, "huge": HUGE_PAGES}  # what each sets in the environment
# as a user runs both, and with the same page setting; the others stand beside
_GOALS: dict[tuple[Theirs, str], float] = {("adam", "default"): 20.0, ("adam", "huge"): 10.0}
# tables: weight, gradient and two moments; two more while Adam's plain loop computes its denominator
_TABLES: dict[Theirs, float] = {"adam": 6.0, "adam_fused": 4.0, "row_adagrad": 1.5}
_CALLS = {OURS: 5, "adam": 1, "adam_fused": 1, "row_adagrad": 3}  # in a row; their median counts
_WARMUP_ROUNDS = 2


def compare_training_steps(sizes: Sizes) -> Findings:
    """Both page settings, every optimizer of theirs; never two of their processes at a time."""
    answers, facts = [], {}
    for (pages, variables), theirs in product(_PAGES.items(), _NAMES):
        question, goal = f"train_step, {_NAMES[theirs]} over ours, {pages} pages", _GOALS.get((theirs, pages))
        try:
            if reason := short_of_memory((1 + _TABLES[theirs]) * sizes.table_bytes() + 2**30):
                raise WorkerDied("oom", reason)
            seconds, on_huge = _compared(sizes, theirs, users_environment() | variables)
        except WorkerDied as death:
            answers.append(Answer(question, goal=goal, reason=death.reason))
            continue
        answers.append(Answer.of_times(question, seconds[theirs], seconds[OURS], (theirs, OURS), goal=goal))
        facts[f"{theirs}_{pages}_pages"] = {"seconds": seconds, "table_on_huge_pages": on_huge}
    return Findings(answers, facts)


def _compared(
    sizes: Sizes, theirs: Theirs, environment: Mapping[str, str]
) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """Seconds of both in every round, and whether their tables really lie on huge pages."""
    with Child(environment, serve, sizes, OURS) as own, Child(environment, serve, sizes, theirs) as other:
        children = {theirs: other, OURS: own}
        on_huge = {name: child.receive() for name, child in children.items()}
        ways = {name: partial(_seconds, child, _CALLS[name]) for name, child in children.items()}
        return take_turns(ways, sizes.rounds, _WARMUP_ROUNDS), on_huge


def _seconds(child: Child, calls: int, number: int) -> float:
    del number  # a child counts its own inputs
    return child.ask(calls)


def serve(pipe: Connection, sizes: Sizes, whose: Theirs | Literal["ours"]) -> None:
    """In a process of its own: says whether the table lies on huge pages, then times as many calls as asked for."""
    step, table = training_step(sizes, whose)
    clock, inputs = Clock("cpu"), count()
    pipe.send(on_huge_pages(table))
    for calls in questions(pipe):
        pipe.send(statistics.median(clock.seconds(step, inputs, 1) for _ in range(calls)))


def training_step(sizes: Sizes, whose: Theirs | Literal["ours"]) -> tuple[Step, torch.Tensor]:
    """One training step on input number i, gradient of the input included; and the table it reads."""
    spec = sizes.spec()
    batches = [torch.randn(sizes.tokens, sizes.model_dim) for _ in range(INPUTS)]
    dy = torch.randn_like(batches[0])
    if whose == OURS:
        layer = build(spec)
        case = Case(arm=OURS, mode="train_step", layer=spec, tokens=sizes.tokens, optimizer="row_adagrad")
        optimizer = LayerOptimizer(layer, "row_adagrad", 0.0)
        inputs = [Input(x, None) for x in batches]
        return make_step(case.mode, layer, layer, inputs, dy, optimizer), layer.tables()[0].weight
    public = BagMemory(spec, torch.float32, sparse=whose == "row_adagrad")
    optimizers = _their_optimizers(public, whose)

    def step(i: int) -> None:
        public.zero_grad(set_to_none=True)
        public(batches[i % INPUTS].detach().requires_grad_(True)).backward(dy)
        for optimizer in optimizers:
            optimizer.step()

    return step, public.bag.weight


def _their_optimizers(public: BagMemory, which: Theirs) -> Sequence[torch.optim.Optimizer | PlainRowAdagrad]:
    if which == "row_adagrad":
        matrices = torch.optim.AdamW([public.query, public.keys], lr=0.0, fused=True)  # as ours has them
        return [matrices, PlainRowAdagrad(public.bag.weight, 0.0)]
    return [torch.optim.Adam(public.parameters(), lr=0.0, fused=which == "adam_fused" or None)]
