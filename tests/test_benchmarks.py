"""The benchmarks of training: they compare the same computation, and their files say what they should."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import memory_step, recall, row_optimizers, writing
from benchmarks.memory_step_parts import against_public
from benchmarks.memory_step_parts.answers import Answer, Sizes
from benchmarks.memory_step_parts.floors import measure_floors
from benchmarks.memory_step_parts.forward import check_same, compare_forwards
from benchmarks.memory_step_parts.growth import measure_growth
from benchmarks.memory_step_parts.largest import train_largest
from benchmarks.memory_step_parts.processes import call
from benchmarks.memory_step_parts.turns import take_turns
from benchmarks.public_memory import PlainRowAdagrad, with_weights_of
from layers.memory import Memory
from layers.optim.layer_optimizer import LayerOptimizer
from layers.public.embedding_bag import BagMemory
from layers.spec import MemorySpec
from membench.machine.device import usable_cores

TINY = Sizes(
    model_dim=64, tokens=6, heads=2, top_k=3, key_dim=8, num_keys=16**2, key_counts=(8**2, 16**2), rounds=1
)  # fmt: skip
MAKERS = {"ours": against_public.our_step, "theirs": against_public.their_step}
# Both sum the same fp32 numbers in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def threads_of_torch():
    return torch.get_num_threads()


def test_parts_measure_with_every_core():
    """OpenMP binds the main thread to one core when torch is imported; the others must be counted all the same."""
    assert call(threads_of_torch) == len(usable_cores())


def test_public_layer_computes_the_same_on_the_same_weights(seed):
    torch.manual_seed(seed)
    layer = Memory(MemorySpec(model_dim=20, num_keys=13**2, heads=3, top_k=5, key_dim=14, dtype="float32"))
    public = with_weights_of(layer)
    assert public.bag.weight.data_ptr() == layer.table.weight.data_ptr()
    x, dy = torch.randn(9, 20), torch.randn(9, 20)
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(own)
    torch.testing.assert_close(public(other), y, **TOLERANCE)
    y.backward(dy)
    found = {name: layer.get_parameter(name).grad.clone() for name in ("query", "keys")}
    layer.query.grad = layer.keys.grad = None  # both layers hold these very parameters
    public(other).backward(dy)
    torch.testing.assert_close(other.grad, own.grad, **TOLERANCE)
    for name, gradient in found.items():
        torch.testing.assert_close(getattr(public, name).grad, gradient, **TOLERANCE)
    torch.testing.assert_close(public.bag.weight.grad, layer.table.gradient.to_dense(13**2), **TOLERANCE)


def test_plain_row_adagrad_trains_the_table_as_ours_does(seed):
    torch.manual_seed(seed)
    spec = MemorySpec(model_dim=12, num_keys=9**2, heads=2, top_k=4, key_dim=10, dtype="float32")
    layer, public = Memory(spec), BagMemory(spec, torch.float32, sparse=True)
    with torch.no_grad():
        for ours, theirs in ((layer.query, public.query), (layer.keys, public.keys)):
            theirs.copy_(ours)
        public.bag.weight.copy_(layer.table.weight)
    before = layer.table.weight.clone()
    optimizer = LayerOptimizer(layer, "row_adagrad", 0.0, table_learning_rate=0.1)
    plain = PlainRowAdagrad(public.bag.weight, 0.1)
    for _ in range(3):
        x, dy = torch.randn(7, 12), torch.randn(7, 12)
        with optimizer.fused():
            layer(x).backward(dy)
        optimizer.step()
        layer.zero_gradients()
        public.zero_grad()
        public(x).backward(dy)
        plain.step()
    torch.testing.assert_close(public.bag.weight, layer.table.weight, **TOLERANCE)
    assert (layer.table.weight - before).abs().max() > 0.05


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [(make, getattr(pair, side)) for pair in against_public.PAIRS for side, make in MAKERS.items()],
)
def test_a_training_step_leaves_the_weights_as_they_are(make, optimizer):
    step, table = make(TINY, optimizer)
    before = table.detach().clone()
    for number in range(3):
        step(number)
    torch.testing.assert_close(table.detach(), before, rtol=0, atol=0)


def test_memory_step_answers_every_question(monkeypatch):
    monkeypatch.setattr(against_public, "PAIRS", against_public.PAIRS[-1:])
    monkeypatch.setattr(writing, "probe_environment", lambda device: {"device": device})
    found = {
        "training": against_public.compare_training_steps(TINY, "huge"),
        "growth": measure_growth(TINY),
        "forward": compare_forwards(TINY),
        "floors": measure_floors(TINY),
        "largest": train_largest(replace(TINY, num_keys=8**2, dtype="bfloat16")),
    }
    result = json.loads(json.dumps(memory_step.as_json(found, TINY, "now"), allow_nan=False))
    assert result["benchmark"] == "memory_step"
    assert {"started", "finished", "git_sha", "environment", "path", "sizes", "answers", "facts"} <= set(result)
    assert len(result["answers"]) == 1 + 1 + 2 + 4 + 1
    for answer in result["answers"]:
        assert answer["reason"] is None
        assert math.isfinite(answer["value"]) and answer["value"] > 0
    stages = result["facts"]["growth"]["256"]["stages_ms"]
    assert {"query", "scores", "top_k", "bag", "bag backward", "scores backward", "update"} <= set(stages)
    assert len(result["facts"]["largest"]["losses"]) == 24


def test_memory_step_says_what_does_not_fit(monkeypatch, capsys):
    huge = Sizes(num_keys=2**38, key_counts=(2**38, 2**40))
    training = partial(against_public.compare_training_steps, pages="default")
    for part in (measure_growth, compare_forwards, measure_floors, training):
        found = part(huge)
        assert all(answer.met is None and "GiB are free" in answer.reason for answer in found.answers)
        memory_step.print_table({"part": found}, huge)
        assert "not measured: needs about" in capsys.readouterr().out


def test_answers_hold_medians_against_goals():
    answer = Answer.of_times("a over b", [6.0, 1.0, 4.0], [2.0, 1.0, 1.0], ("a", "b"), goal=3.0)
    assert answer.value == 3.0 and answer.met and answer.milliseconds == {"a": 4000.0, "b": 1000.0}
    assert not Answer("", [3.1], goal=3.0, at_most=True).met
    assert Answer("", [3.1]).met is None


def test_turns_give_all_the_same_inputs_and_alternate():
    calls = []
    ways = {name: lambda number, name=name: calls.append((name, number)) or float(number) for name in "ab"}
    assert take_turns(ways, rounds=2, warmup=1) == {"a": [1.0, 2.0], "b": [1.0, 2.0]}
    assert calls == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]


def test_row_optimizers_compare_on_equal_terms(capsys):
    setup = recall.Setup(
        facts=40, classes=7, model_dim=8, num_keys=8**2, heads=2, top_k=3, key_dim=8, tokens=16, steps=9, every=3,
        queries=64, learning_rates=(0.1, 1e30), seeds=(1, 2),
    )  # fmt: skip
    rules = row_optimizers.compare(setup, lambda runs: map(recall.train, runs))
    row_optimizers.print_table(rules, setup)
    assert recall.DENSE in capsys.readouterr().out
    result = json.loads(json.dumps(row_optimizers.as_json(rules, setup, "now"), allow_nan=False))
    assert result["benchmark"] == "row_optimizers"
    assert set(result["rules"]) == {*recall.RULES, recall.NONE}
    for rule in result["rules"].values():
        assert [len(curve) for curve in rule["curves"]] == [4, 4]
        assert rule["learning_rate"] in (0.1, None)
    assert rules["lazy_adam"]["over_dense_adam"] != [0.0, 0.0]
    assert rules[recall.DENSE]["over_dense_adam"] == [0.0, 0.0]
    starts = {tuple(curve[0] for curve in rule["curves"]) for rule in rules.values()}
    assert len(starts) == 1  # the same weights and queries


def test_a_row_that_ties_may_differ_and_no_more():
    results = torch.randn(200, 8)
    one_token, all_tokens = results.clone(), results + 1e-3
    one_token[7] += 0.01
    check_same("a ratio", one_token, results)
    with pytest.raises(ArithmeticError, match="a ratio: 200 of 200 tokens differ"):
        check_same("a ratio", all_tokens, results)


def test_what_other_parts_found_is_kept(capsys):
    def broken(sizes):
        raise ArithmeticError("they differ")

    found = memory_step.measure({"broken": broken, "forward": compare_forwards}, TINY)
    assert found["broken"].answers[0].reason == "they differ"
    assert found["forward"].answers[0].value > 0
    assert "broken" in capsys.readouterr().err
