"""Budgets: what a run counts, and that each kind of budget ends it."""

import pytest
import torch
from small_task import MODELS, SmallTask, Ticking, finished, run_of, settings_of, spec_of
from torch.utils.flop_counter import FlopCounterMode

from layers.kernels.paths import forced
from membench.errors import UsageError
from membench.layers.spec import Step
from membench.machine.energy import EnergyCounter
from membench.training.clock import training_flops

SEQUENCES, TOKENS = 8, 4


def plain_attention_flops(spec):
    """What torch counts of plain products, each token with those that it sees, and twice that in the backward."""
    width = spec.attention.head_dim
    with FlopCounterMode(display=False) as counter:
        for seen in range(1, TOKENS + 1):
            weights = torch.empty(1, width) @ torch.empty(width, seen)
            weights @ torch.empty(seen, width)
    return 3 * counter.get_total_flops() * SEQUENCES * spec.attention.heads * spec.num_blocks


@pytest.mark.parametrize("kind", MODELS)
def test_training_flops_are_those_that_torch_counts(kind):
    """On the torch path, over a whole update, of which the optimizer's arithmetic is not counted by either. torch does
    not count its fused attention on a CPU."""
    run = run_of(kind, settings_of(clip_norm=None))
    with forced("torch"), FlopCounterMode(display=False) as counter:
        run._update(SmallTask().batch(0, SEQUENCES))
    counted = counter.get_total_flops() + plain_attention_flops(run.spec)
    assert training_flops(run.spec, SEQUENCES, TOKENS) == counted


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_flops_are_without_the_optimizers(kind):
    step = Step(SEQUENCES * TOKENS, "train_step", "adamw", sequences=SEQUENCES)
    names = {"update", "table_update"}
    stages = [stage.flops for stage in spec_of(kind).cost(step).stages if stage.name not in names]
    assert training_flops(spec_of(kind), SEQUENCES, TOKENS) == sum(stages)


@pytest.mark.parametrize(
    ("stop", "steps"),
    [({"steps": 6}, 6), ({"tokens": 6 * 32}, 6), ({"tokens": 5 * 32 + 1}, 6), ({"flops": "of six"}, 6)],
)
def test_a_budget_of_steps_tokens_or_flops_is_spent_to_the_step(stop, steps):
    spec = spec_of("dense")
    if stop.get("flops"):
        stop = {"flops": 6 * training_flops(spec, SEQUENCES, TOKENS)}
    trained = finished("dense", settings_of(stop=stop))
    last = trained.curve[-1]
    assert (last.step, last.tokens) == (steps, steps * 32)
    assert last.flops == steps * training_flops(spec, SEQUENCES, TOKENS)
    assert [point.step for point in trained.curve] == [2, 4, 6]


@pytest.mark.parametrize(("stop", "steps"), [({"seconds": 6.0}, 6), ({"joules": 12.0}, 6)])
def test_a_budget_of_seconds_or_joules_is_of_training_alone(monkeypatch, stop, steps):
    """Evaluations, which take their time, are left out."""
    ticking = Ticking()
    monkeypatch.setattr("membench.training.clock.time", ticking)
    monkeypatch.setattr("membench.training.clock.EnergyCounter", ticking.counter)

    class Slow(SmallTask):
        def batch(self, first, count):
            ticking.now += 1
            return super().batch(first, count)

        def score(self, *asked):
            ticking.now += 100
            return super().score(*asked)

    trained = finished("dense", settings_of(stop=stop), data=Slow())
    last = trained.curve[-1]
    assert (last.step, last.seconds, last.joules) == (steps, 6.0, 12.0)
    assert [point.step for point in trained.curve] == [2, 4, 6]
    assert trained.final["tokens_per_s"] == 32 and trained.final["joules"] == 12.0


@pytest.mark.skipif(EnergyCounter("cpu").source is not None, reason="this machine has an energy counter")
def test_joules_without_a_counter_are_refused_in_a_line_and_else_unknown():
    with pytest.raises(UsageError, match=r"training\.stop\.joules: no energy counter .* stop at seconds"):
        run_of("dense", settings_of(stop={"joules": 1.0}))
    assert finished("dense", settings_of(2)).final["joules"] is None
