"""Experts over sorted rows, the dispatches that sort them, and the threads that share them."""

import random
import threading

import pytest
import torch
from against_reference import assert_matches, counted_flops, poisoned_memory

from layers.checking import reference
from layers.kernels import dispatch as dispatching
from layers.kernels.grouped_matmul import experts
from layers.kernels.workers import for_each
from layers.moe import MoE
from layers.spec import MoESpec, Step

COUNTS = {
    "even": [5] * 12,
    "empty first, middle and last": [0, 9, 0, 0, 4, 0],
    "all to one": [0, 0, 40, 0],
    "one heavy among light": [1, 2, 60, 3, 0, 1, 2, 1, 4],
    "one row": [0, 1],
    "one expert": [33],
    "many with a row each": [1] * 50,
}


@pytest.fixture
def rng(seed):
    torch.manual_seed(seed)
    return random.Random(seed)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def operands(counts, d, f, dtype, device="cpu"):
    """Rows that each stand for one token, in a shuffled order; weights; the dispatch."""
    rows = sum(counts)
    selected = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[torch.randperm(rows), None]
    tensors = [
        torch.randn(rows, d),
        torch.randn(len(counts), 2 * f, d) / d**0.5,
        torch.randn(len(counts), d, f) / f**0.5,
        torch.rand(rows, 1),
    ]
    x, gate_up, down = (tensor.to(device, dtype).requires_grad_() for tensor in tensors[:3])
    weights = tensors[3].to(device).requires_grad_()
    return x, gate_up, down, weights, selected.to(device)


def check(counts, d, f, dtype, device="cpu"):
    x, gate_up, down, weights, selected = operands(counts, d, f, dtype, device)
    dy = torch.randn(x.shape).to(device, dtype)
    with poisoned_memory():
        dispatch = dispatching.by_expert(selected, len(counts))
        y = experts(x, gate_up, down, dispatching.row_weights(dispatch, weights), dispatch)
        y.backward(dy)

    def expected(leaf):
        x64, gate_up64, down64, weights64 = leaves = [leaf(tensor) for tensor in (x, gate_up, down, weights)]
        of_expert = enumerate(selected[:, 0].tolist())
        results = [reference.swiglu(x64[t : t + 1], gate_up64[e], down64[e])[0] for t, e in of_expert]
        y64 = torch.stack(results) * weights64
        y64.backward(dy.double())
        return dict(zip(names, [y64, *(tensor.grad for tensor in leaves)], strict=True))

    names = ("y", "dx", "dgate_up", "ddown", "dweights")
    found = dict(zip(names, [y, x.grad, gate_up.grad, down.grad, weights.grad], strict=True))
    assert_matches(found, expected, str(dtype).removeprefix("torch."), f"{counts, d, f}")
    for expert, count in enumerate(counts):
        if count == 0:
            assert not gate_up.grad[expert].any() and not down.grad[expert].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", COUNTS)
def test_experts(case, dtype, threads, rng):
    least = 1 if dtype == torch.float32 else 16
    check(COUNTS[case], rng.randint(least, 70), rng.randint(least, 70), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(64, 128), (40, 24), (37, 19)])
@pytest.mark.parametrize("case", COUNTS)
def test_experts_on_a_gpu(case, sizes, dtype, rng):
    check(COUNTS[case], *sizes, dtype, device="cuda")


def test_in_inference_mode(rng):
    x, gate_up, down, weights, selected = operands(COUNTS["even"], 16, 24, torch.float32)
    dispatch = dispatching.by_expert(selected, 12)
    row_weights = dispatching.row_weights(dispatch, weights)
    expected = experts(x, gate_up, down, row_weights, dispatch)
    with torch.inference_mode():
        assert torch.equal(experts(x, gate_up, down, row_weights, dispatch), expected)


@pytest.mark.parametrize("wanted", [["x"], ["gate_up"], ["down"], ["weights"], ["x", "weights"], []])
def test_only_the_gradients_asked_for(wanted, rng):
    x, gate_up, down, weights, selected = operands(COUNTS["empty first, middle and last"], 9, 6, torch.float32)
    dispatch = dispatching.by_expert(selected, 6)
    leaves = {"x": x, "gate_up": gate_up, "down": down, "weights": weights}

    def gradients():
        y = experts(x, gate_up, down, dispatching.row_weights(dispatch, weights), dispatch)
        asked = [leaf for leaf in leaves.values() if leaf.requires_grad]
        return dict(
            zip([n for n in leaves if leaves[n].requires_grad], torch.autograd.grad(y.sum(), asked), strict=True)
        )

    expected = gradients()
    for name, leaf in leaves.items():
        leaf.requires_grad_(name in wanted)
    if not wanted:
        assert not experts(x, gate_up, down, dispatching.row_weights(dispatch, weights), dispatch).requires_grad
        return
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0)


def test_as_an_operator(rng):
    """Its schema, fake kernel and autograd hold together, and nothing of its output is its input."""
    x, gate_up, down, weights, selected = operands(COUNTS["even"], 8, 6, torch.float32)
    dispatch = dispatching.by_expert(selected, 12)
    weight = dispatching.row_weights(dispatch, weights).detach().requires_grad_()
    fields = (dispatch.token, dispatch.ends, dispatch.slot, dispatch.returned, dispatch.starts)
    for keep in (True, False):
        given = [tensor.detach().requires_grad_(keep) for tensor in (x, gate_up, down, weight)]
        torch.library.opcheck(torch.ops.membench.experts, (*given, *fields, keep))


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_flops_counted_of_a_layer_are_those_it_states(choice, rng):
    spec = MoESpec(model_dim=24, num_experts=8, expert_hidden=16, top_k=3, dtype="float32", choice=choice)
    layer, x = MoE(spec), torch.randn(10, 24, requires_grad=True)
    assert counted_flops(lambda: layer(x)) == tuple(
        spec.cost(Step(10, mode=mode)).flops for mode in ("forward", "forward_backward")
    )


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_a_layer_compiles_into_one_graph(choice, rng):
    layer = MoE(MoESpec(model_dim=24, num_experts=8, expert_hidden=16, top_k=3, dtype="float32", choice=choice))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for tokens in (10, 17):
        x = torch.randn(tokens, 24, requires_grad=True)
        found = [torch.autograd.grad(run(x).square().sum(), [x, *layer.parameters()]) for run in (layer, compiled)]
        for expected, actual in zip(*found, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_dispatch_by_expert_is_a_stable_sort(rng):
    selected = torch.stack([torch.randperm(9)[:4] for _ in range(20)])
    dispatch = dispatching.by_expert(selected, 9)
    flat = selected.flatten().tolist()
    order = sorted(range(80), key=lambda slot: flat[slot])
    assert dispatch.slot.tolist() == order
    assert dispatch.token.tolist() == [slot // 4 for slot in order]
    assert dispatch.ends.tolist() == [sum(e <= expert for e in flat) for expert in range(9)]
    assert dispatch.slot[dispatch.returned].tolist() == list(range(80))


def test_combine_sums_what_each_token_gets_back(rng):
    chosen = torch.stack([torch.randperm(10)[:3] for _ in range(6)])  # some tokens may be taken by nobody
    dispatch = dispatching.by_token(chosen, 10)
    rows = torch.randn(18, 5)
    expected = torch.zeros(10, 5).index_add(0, chosen.flatten(), rows)
    torch.testing.assert_close(dispatching.combine(rows, dispatch), expected)
    weight = torch.rand(18)
    torch.testing.assert_close(
        dispatching.combine(rows, dispatch, weight), dispatching.combine(rows * weight[:, None], dispatch)
    )


def test_rows_without_a_slot_weigh_nothing():
    dispatch = dispatching.from_counts(torch.tensor([3, 0, 4]), tokens=2, k=2)
    assert dispatch.token.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert dispatch.ends.tolist() == [3, 3, 7]
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert torch.equal(dispatching.row_weights(dispatch, weights), torch.tensor([0.1, 0.3, 0.2, 0.4, 0, 0, 0]))
    assert dispatch.slot[dispatch.returned].tolist() == [0, 1, 2, 3]


def test_for_each_calls_once_an_item_on_single_threaded_workers(threads):
    seen, inside = [], set()

    def note(item):
        seen.append(item)
        inside.add((torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name))

    for_each(note, list(range(100)))
    assert sorted(seen) == list(range(100))
    assert {(count, grad) for count, grad, _ in inside} == {(1, False)}
    assert torch.get_num_threads() == threads


def test_for_each_hands_on_an_error(threads):
    def fail(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        for_each(fail, [1, 2, 3])
