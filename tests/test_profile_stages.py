"""The stages of every layer: timed under the names that their costs have, forward and backward, and adding up."""

import timeit
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from timing import once_in

from layers import build, spec_from
from layers.kernels.stages import observed_by, stage
from layers.optim.layer_optimizer import LayerOptimizer
from layers.parallel.exchange import Exchange
from layers.spec import Step
from membench.measuring.inputs import Input
from membench.measuring.step import make_step
from membench.measuring.time import Clock
from membench.profiler.stage_clock import StageClock
from membench.profiler.stage_times import Budget, followed, mean_of_middle, observed, time_stages
from membench.results.floors import counts_of
from membench.results.profile import REST, StageKey

KINDS = {
    "dense": {"ffn_hidden": 192},
    "moe": {"num_experts": 8, "expert_hidden": 64, "top_k": 2, "shared_hidden": 64},
    "moe_expert_choice": {"kind": "moe", "num_experts": 8, "expert_hidden": 64, "top_k": 2, "choice": "expert"},
    "memory": {"num_keys": 1024, "key_dim": 32, "top_k": 8, "value_dim": 64, "companion_hidden": 64},
    "memory_plus": {"num_keys": 1024, "key_dim": 32, "top_k": 8},
    "peer": {"num_keys": 1024, "key_dim": 32, "top_k": 4, "heads": 2, "query_norm": True},
}
UNCOUNTED = {"dispatch"}  # what a cost counts nothing for


def a_spec(name, dim=96, dtype="float32"):
    return spec_from({"kind": name, "model_dim": dim, "dtype": dtype, **KINDS[name]})


def steps(layer, mode, optimizer=None, tokens=24):
    """The step alone, the step observed, and the clock that observes."""
    layer.train(mode in ("forward_backward", "train_step"))
    dtype = layer.query.dtype if hasattr(layer, "query") else next(layer.parameters()).dtype
    inputs = [Input(torch.randn(tokens, layer.spec.model_dim).to(dtype), None) for _ in range(2)]
    upstream = torch.randn(inputs[0].x.shape).to(dtype)
    stages = StageClock("cpu")
    alone = make_step(mode, layer, layer, inputs, upstream, optimizer)
    watched = observed(make_step(mode, followed(layer, stages), layer, inputs, upstream, optimizer), stages)
    return alone, watched, stages


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("mode", ["forward", "forward_backward", "train_step"])
def test_every_counted_stage_is_timed_and_every_timed_one_counted(name, mode):
    spec = a_spec(name)
    layer = build(spec)
    optimizer = LayerOptimizer(layer, "row_adagrad", 0.0) if mode == "train_step" else None
    _, watched, stages = steps(layer, mode, optimizer)
    watched(0)
    timed = list(stages.seconds())
    costs = spec.cost(Step(24, mode=mode, optimizer="row_adagrad")).stages
    assert REST in timed
    for key in timed:
        assert (counts_of(key, timed, costs) is None) == (key == REST or key.name in UNCOUNTED), key
    claimed = [counts_of(key, timed, costs) for key in timed]
    for count in ("flops", "bytes_min", "bytes_dram_expected", "row_bytes_dram_expected"):
        assert sum(getattr(c, count) for c in claimed if c) == pytest.approx(sum(getattr(c, count) for c in costs))


@pytest.mark.parametrize("name", KINDS)
def test_observing_changes_no_gradient(name, seed):
    layer = build(a_spec(name), seed=seed)
    alone, watched, _ = steps(layer, "forward_backward")

    def gradients(step):
        step(0)
        tables = [(table.gradient.rows, table.gradient.values) for table in layer.tables()]
        return [p.grad for p in layer.parameters() if p.grad is not None], tables

    torch.testing.assert_close(gradients(watched), gradients(alone), rtol=0, atol=0)


def test_no_node_of_the_backward_is_left_to_the_rest(virtual_time):
    """What is slow in a stage's backward shows in that stage: here its node sleeps."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *upstream):
            virtual_time.sleep(0.02)
            with stage("inner"):
                virtual_time.sleep(0.01)
            return upstream[0]

    class Toy:
        auxiliary_loss = None
        exchange = Exchange()

        def __init__(self):
            self.weight = torch.randn(4, 4, requires_grad=True)

        def __call__(self, x, routing=None):
            with stage("first"):
                y = Slow.apply(x @ self.weight)
            with stage("second"):
                virtual_time.sleep(0.005)
                z = Slow.apply(y).tanh()
            return z + x

        def zero_gradients(self):
            self.weight.grad = None

        def on_path(self):
            return nullcontext()

    toy, stages = Toy(), StageClock("cpu")
    call = followed(toy, stages)
    step = observed(
        make_step("forward_backward", call, toy, [Input(torch.randn(3, 4), None)], torch.ones(3, 4), None), stages
    )
    step(0)
    assert stages.seconds() == pytest.approx(
        {
            REST: 0.0,
            StageKey("first"): 0.0,
            StageKey("second"): 0.005,
            StageKey("first", True): 0.02,
            StageKey("second", True): 0.02,
            StageKey("inner", True): 0.02,
        }
    )
    assert toy.weight.grad is not None


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_stages_add_up_to_the_step(mode):
    layer = build(
        spec_from({"kind": "memory", "model_dim": 256, "num_keys": "16K", "key_dim": 128, "dtype": "float32"})
    )
    alone, watched, stages = steps(layer, mode, tokens=128)
    budget = Budget(least=20, most=40, seconds=3, warmup_seconds=0.1)

    def check():
        found = time_stages(Clock("cpu"), alone, watched, stages, budget)
        assert sum(found.stages.values()) == pytest.approx(found.observed_s)
        assert found.stages[REST] < 0.1 * found.observed_s
        assert found.observed_s == pytest.approx(found.alone_s, rel=0.25)

    once_in(5, check)


def test_marks_leave_no_gap():
    clock = StageClock("cpu")
    clock.begin()
    with clock.stage("outer"), clock.stage("inner"):
        pass
    clock.end()
    times = [mark[1] for mark in clock._marks]
    assert sum(clock.seconds().values()) == pytest.approx(times[-1] - times[0])
    assert all(a <= b for a, b in pairwise(times))
    assert list(clock.seconds()) == [REST, StageKey("outer"), StageKey("inner")]


def test_a_stage_that_nobody_observes_costs_next_to_nothing():
    def use():
        with stage("bag"):
            pass

    assert min(timeit.repeat(use, number=200, repeat=50)) / 200 < 2e-6  # 0.3 µs where nothing else runs


def test_observers_do_not_outlive_their_with():
    clock = StageClock("cpu")
    with pytest.raises(RuntimeError), observed_by(clock):
        raise RuntimeError
    clock._marks.clear()
    with stage("bag"):
        pass
    assert not clock._marks


def test_outliers_move_no_mean():
    key = StageKey("a")
    calls = [{key: 1.0, REST: 0.5}] * 6 + [{key: 90.0, REST: 9.0}, {key: 0.0, REST: 0.0}]
    assert mean_of_middle(calls) == {key: 1.0, REST: 0.5}
    assert mean_of_middle([{key: 2.0}]) == {key: 2.0}


@pytest.mark.parametrize("name", ["dense", "memory"])
def test_a_compiled_layer_does_not_break_at_stages(name):
    """A graph break would split what torch.compile can fuse; the tables' own functions break it with or without."""
    layer = build(a_spec(name))
    x = torch.randn(24, 96)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(layer)(x)
    assert not [reason for reason in explained.break_reasons if "stage" in str(reason) or "nullcontext" in str(reason)]
