"""Operators of level ``op``: right on every path, faults found, inputs that are what layers would hand them."""

import random
from dataclasses import replace

import pytest
import torch
from against_reference import poisoned_memory
from operator_cases import EVERY_PATH, SMALL, case_of, one_input, random_sizes, spec_of

from layers import build, verify
from layers.kernels.paths import has_native, path_of
from layers.layer import Routing
from membench.errors import Unavailable
from membench.measuring.inputs import make_inputs, pool_size
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.preparation import Preparation
from membench.measuring.step import make_step
from membench.measuring.time import Clock
from membench.processes.serving import classify


@pytest.mark.parametrize(("kind", "path"), EVERY_PATH)
def test_right_at_awkward_sizes(kind, path, seed):
    if path == "native" and not has_native():
        pytest.skip("no C++ compiler")
    rng = random.Random(seed)
    for _ in range(8):
        sizes = random_sizes(kind, rng)
        operator = build(spec_of(kind, path, **sizes), seed=rng.randrange(2**31))
        tokens = rng.choice([1, 5, 33])
        item = one_input(operator, tokens, rng.randrange(2**31))
        with poisoned_memory():
            found = verify(operator, item.x, item.routing, sampled_tokens=tokens, seed=seed)
        # of a token's few numbers all may nearly cancel; a fault is an error of the order of 1
        allowed = found.tolerance * (1 if tokens * min(sizes.get("model_dim", 7), 7) > 33 else 300)
        assert found.worst[1] <= allowed, (operator.spec, found)
        assert (found.selection_shortfall or 0.0) <= found.tolerance
        parameters = {name for name, _ in operator.named_parameters()}
        weights = {"weights"} if item.routing is not None and item.routing.weights is not None else set()
        assert set(found.errors) == parameters | weights | {"output", "x"}
        assert (found.selection_shortfall is None) == (kind != "product_key_top_k")


@pytest.mark.parametrize(("kind", "path"), [pair for pair in EVERY_PATH if pair[0] != "product_key_top_k"])
def test_right_in_bfloat16(kind, path, seed):
    if path == "native" and not has_native():
        pytest.skip("no C++ compiler")
    operator = build(spec_of(kind, path, "bfloat16"), seed=seed)
    item = one_input(operator, 48, seed)
    found = verify(operator, item.x, item.routing, sampled_tokens=48, seed=seed)
    assert found.failure is None, found


def halved(operator):
    """A fault in the result."""
    whole = operator.plain
    return lambda x, routing: 0.5 * whole(x, routing)


def unweighted(operator):
    """A fault in the gradient of weights alone."""
    whole = operator.plain
    return lambda x, routing: whole(x, replace(routing, weights=routing.weights.detach() + 0 * routing.weights))


def leaking(operator):
    """A fault in the gradient of what no sampled token reads."""
    whole = operator.plain
    return lambda x, routing: whole(x, routing) + sum(p.sum() for p in operator.parameters()).to(x.dtype) * 1e-3


@pytest.mark.parametrize(
    ("kind", "fault", "blamed"),
    [
        *((kind, halved, "output") for kind in SMALL),
        ("expert_rows", unweighted, "weights"),
        ("grouped_experts", unweighted, "weights"),
        ("grouped_experts", leaking, "expert_down"),
    ],
)
def test_a_fault_is_found(kind, fault, blamed, seed):
    operator = build(spec_of(kind, "plain"), seed=seed)
    operator.plain = fault(operator)
    item = one_input(operator, 20, seed, "uniform")
    found = verify(operator, item.x, item.routing, sampled_tokens=2, seed=seed)
    assert found.failure is not None
    assert found.errors[blamed] > found.tolerance


def test_a_stray_row_of_a_dense_gradient_is_found(seed):
    operator = build(spec_of("weighted_bag", "plain"), seed=seed)
    operator.table.weight.register_hook(lambda gradient: gradient + 1e-6)
    item = one_input(operator, 4, seed)
    assert verify(operator, item.x, item.routing, seed=seed).errors["table.weight"] == float("inf")


def test_a_worse_choice_is_found(seed):
    operator = build(spec_of("product_key_top_k"))
    item, right = one_input(operator, 9, seed), operator.select
    operator.select = lambda x: replace(right(x), indices=right(x).indices.roll(1, dims=0))
    assert "below the k-th best" in verify(operator, item.x, gradients=False, sampled_tokens=9).failure


@pytest.mark.parametrize("routing", ["uniform", "zipf"])
def test_inputs_are_what_a_layer_would_hand_over(routing, seed):
    for path, dtype in (("auto", torch.int32), ("plain", torch.int64)):
        bag = build(spec_of("weighted_bag", path))
        first, second = make_inputs(bag, case_of(bag.spec, 12, routing, seed=seed), 2, "cpu")
        rows = first.routing.selected
        assert (rows.shape, rows.dtype) == ((12, 2, 8), dtype)
        assert not torch.equal(rows, second.routing.selected)
        torch.testing.assert_close(first.x.sum(dim=-1), torch.ones(12, 2))
    scores = make_inputs(build(spec_of("product_key_top_k")), case_of(spec_of("product_key_top_k")), 1, "cpu")[0]
    assert scores.routing is None
    assert scores.x.permute(1, 2, 0, 3).is_contiguous(), "scores lie as retrieval computes them: (H, 2, B, n)"
    experts = build(spec_of("grouped_experts"))
    item = one_input(experts, 12, seed)
    assert (item.routing.selected.shape, item.routing.weights.dtype) == ((12, 3), torch.float32)
    assert item.leaves()[1].weights.requires_grad
    assert not item.routing.weights.requires_grad


def test_enough_inputs_to_pass_the_caches():
    spec = spec_of("product_key_top_k")
    count = pool_size(case_of(spec, 16), 200_000)
    assert count * 16 * 2 * 2 * 20 * 4 >= 4 * 200_000 > (count - 1) * 16 * 2 * 2 * 20 * 4


def step_of(operator, item, mode, seed):
    preparation, case = Preparation(operator, "cpu", 0), case_of(operator.spec, len(item.x), "zipf", seed=seed)
    return make_step(mode, operator, operator, [item], preparation.upstream(case), None)


@pytest.mark.parametrize(("kind", "path"), EVERY_PATH)
def test_gradients_of_steps_do_not_add_up(kind, path, seed):
    if path == "native" and not has_native():
        pytest.skip("no C++ compiler")
    operator = build(spec_of(kind, path), seed=seed)
    item = one_input(operator, 8, seed)
    step, found = step_of(operator, item, "forward_backward", seed), []
    for _ in range(2):
        step(0)
        dense = [p.grad.clone() for p in operator.parameters() if p.grad is not None]
        found.append(dense + [table.gradient.values.clone() for table in operator.tables()])
    assert len(found[0]) == len(list(operator.parameters()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert item.x.grad is None


@pytest.mark.parametrize("kind", [kind for kind, path in EVERY_PATH if path == "torch"])
def test_forward_and_backward_go_the_path_asked_for(kind, seed, monkeypatch):
    operator, taken = build(spec_of(kind, "torch"), seed=seed), []
    compute = operator.operate

    def spy(x, routing):
        taken.append(path_of(x))
        y = compute(x, routing)
        y.register_hook(lambda gradient: taken.append(path_of(gradient)))
        return y

    monkeypatch.setattr(operator, "operate", spy)
    step_of(operator, one_input(operator, 8, seed), "forward_backward", seed)(0)
    assert taken == ["torch", "torch"]
    item = one_input(operator, 8, seed)
    verify(operator, item.x, item.routing)
    assert taken == ["torch"] * 4


def test_a_path_that_is_not_here_skips_the_case():
    operator = build(spec_of("weighted_bag", "triton"))
    measurement = CaseMeasurement(operator, Clock("cpu"), 0, lambda doing: None)
    with pytest.raises(Unavailable) as caught:
        measurement.prepare(case_of(operator.spec), ["eager"])
    assert classify(caught.value) == ("skipped", "path triton needs a GPU, this is cpu")


def test_a_train_step_updates_what_it_read(seed):
    for path, optimizer in (("auto", "sgd"), ("auto", "lazy_adam"), ("plain", "sgd"), ("plain", "adamw")):
        operator = build(spec_of("expert_rows", path), seed=seed)
        measurement = CaseMeasurement(operator, Clock("cpu"), 0, lambda doing: None)
        case = case_of(operator.spec, mode="train_step", optimizer=optimizer, seed=seed)
        prepared = measurement.prepare(case, ["eager"])
        assert prepared.checked.verification.failure is None
        prepared.step(0)
        assert prepared.implementation["path"] == operator.path


def test_operators_are_not_split():
    with pytest.raises(ValueError, match="not split over ranks"):
        build(spec_of("weighted_bag"), ranks=2)


def test_an_operator_is_told_what_was_chosen():
    operator, chosen = build(spec_of("grouped_experts")), torch.zeros(3, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="needs selected and weights"):
        operator(torch.randn(3, 96), Routing(selected=chosen))
