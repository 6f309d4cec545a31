"""What operators are said to cost: FLOPs that torch counts, the bytes of the formulas, the memory of each path."""

import random

import pytest
from against_reference import counted_flops
from operator_cases import SMALL, one_input, random_sizes, spec_of

from layers import build
from layers.checking import reference
from layers.spec import KeyScoresSpec, MemorySpec, MoESpec, PeerSpec, Step, spec_from


def reference_in_double(operator, item):
    """The reference on all tokens, its inputs and parameters float64 leaves."""
    w = {name: p.detach().double().requires_grad_() for name, p in operator.named_parameters()}
    x = item.x.double().requires_grad_()
    weights = None if item.routing is None or item.routing.weights is None else item.routing.weights.double()
    weights = weights if weights is None else weights.requires_grad_()
    selected = None if item.routing is None else item.routing.selected.long()
    match operator.spec.kind:
        case "weighted_bag":
            return lambda: reference.weighted_bag(x, w["table.weight"], selected)
        case "expert_rows":
            tables = {"down": w["down.weight"], "up": w["up.weight"]}
            return lambda: reference.expert_rows(tables, x, weights, selected)
        case "key_scores":
            return lambda: reference.key_scores(x, w["keys"])
        case "grouped_experts":
            return lambda: reference.swiglu_experts(w, x, weights, selected)
    first, second = x.unbind(2)
    return lambda: reference.top_rows(first, second, operator.spec.top_k)[1].softmax(dim=-1)


@pytest.mark.parametrize("kind", SMALL)
def test_flops_and_params(kind, seed):
    rng = random.Random(seed)
    for _ in range(8):
        spec = spec_of(kind, **random_sizes(kind, rng))
        operator = build(spec)
        item = one_input(operator, rng.choice([1, 17]), seed)
        forward, both = counted_flops(reference_in_double(operator, item))
        costs = [spec.cost(Step(len(item.x), mode=mode)) for mode in ("forward", "forward_backward")]
        assert [cost.flops for cost in costs] == [forward, both], spec
        assert costs[0].params == sum(p.numel() for p in operator.parameters())
        assert costs[0].stored_bytes == 4 * costs[0].params


def stages_of(cost, *names):
    return [stage for stage in cost.stages if stage.name in names]


def test_stages_are_those_of_the_layers():
    step = {"mode": "train_step", "optimizer": "row_adagrad", "cache_bytes": 1e5}
    rows = {"model_dim": 96, "num_keys": 400, "heads": 2, "top_k": 8}
    given = {"unique_rows": 77.0, **step}
    bag = spec_from({"kind": "weighted_bag", **rows}).cost(Step(5, **given))
    assert list(bag.stages) == stages_of(MemorySpec(key_dim=32, **rows).cost(Step(5, **given)), "bag")
    peer = spec_from({"kind": "expert_rows", **rows}).cost(Step(5, **given))
    assert list(peer.stages) == stages_of(PeerSpec(key_dim=32, **rows).cost(Step(5, **given)), "experts")
    sizes = {"model_dim": 96, "num_experts": 10, "expert_hidden": 56, "top_k": 3}
    given = {"active_experts": 7.0, "assignments": 15.0, "mode": "forward_backward"}
    experts = spec_from({"kind": "grouped_experts", **sizes}).cost(Step(5, **given))
    layer = MoESpec(**sizes).cost(Step(5, **given))
    assert list(experts.stages) == stages_of(layer, "experts_up", "experts_down", "combine")
    assert (bag.unique_rows, peer.unique_rows, experts.active_experts) == (77.0, 77.0, 7.0)


def test_bytes():
    b, h, k, n, d, s, u = 5, 2, 8, 20, 96, 2, 77.0
    rows = b * h * k
    bag = spec_of("weighted_bag", dtype="bfloat16").cost(Step(b, unique_rows=u))
    assert bag.bytes_min == rows * 8 + b * d * s + u * d * s
    assert bag.bytes_issued == rows * 8 + b * d * s + rows * d * s
    experts = spec_of("expert_rows", dtype="bfloat16").cost(Step(b, unique_rows=u))
    assert experts.bytes_min == rows * 8 + 2 * b * d * s + 2 * u * d * s
    scores = 2 * b * h * n * 4
    assert spec_of("product_key_top_k").cost(Step(b)).bytes_min == scores + rows * 8
    assert spec_of("product_key_top_k").cost(Step(b, mode="forward_backward")).bytes_min == 2 * scores + rows * 20
    keys = KeyScoresSpec(num_keys=400, heads=h, key_dim=32, dtype="bfloat16").cost(Step(b))
    assert keys.bytes_min == b * h * 32 * 4 + h * n * 32 * s + scores  # queries are fp32
    assert not keys.is_expectation
    assert spec_of("weighted_bag").cost(Step(b)).is_expectation


def test_bytes_of_experts_gradients():
    """Of u's rows each lookup reads one for dx and none for a weight; of v's each row is read once, for the weights."""
    b, h, k, d, s, u = 5, 2, 8, 96, 2, 77.0
    rows = b * h * k
    spec = spec_of("expert_rows", dtype="bfloat16")
    (passed,) = (stage for stage in spec.cost(Step(b, mode="forward_backward", unique_rows=u)).stages if stage.backward)
    streamed, gathered = rows * 12 + 2 * u * d * s + b * d * s, 2 * rows * d * s
    assert passed.stream_bytes == streamed  # lookups, two gradients, dx
    assert passed.row_bytes_issued == gathered + u * d * s + rows * d * s
    assert passed.row_bytes_unique == 2 * u * d * s + 2 * b * d * s  # both tables, dY and x
    of_update = {"mode": "train_step", "optimizer": "row_adagrad"}
    (updated,) = (stage for stage in spec.cost(Step(b, unique_rows=u, **of_update)).stages if stage.backward)
    assert updated.stream_bytes == rows * 12 + b * d * s
    assert updated.row_bytes_issued == gathered + 2 * (2 * u * d * s + 2 * u * 4) + rows * d * s
    cached = {"cache_bytes": 1e9, "unique_rows": u}
    for mode in ("forward_backward", "train_step"):
        optimizer = "row_adagrad" if mode == "train_step" else None
        cost = spec.cost(Step(b, mode=mode, optimizer=optimizer, **cached))
        (stage,) = (stage for stage in cost.stages if stage.backward)
        again = 0 if optimizer is None else u * d * s  # an update reads u's rows after dx did
        assert stage.row_bytes_dram_expected == pytest.approx(stage.row_bytes_unique + again)


def test_memory_of_a_dense_gradient():
    ours, plain = (spec_of("weighted_bag", path) for path in ("auto", "plain"))
    table, step = ours.table_params * 4, {"mode": "train_step", "unique_rows": 50.0}
    assert plain.cost(Step(4, mode="forward_backward", unique_rows=50.0)).memory.gradients == table
    assert ours.cost(Step(4, mode="forward_backward", unique_rows=50.0)).memory.gradients == 50 * 96 * 4
    assert plain.cost(Step(4, optimizer="adamw", **step)).memory.optimizer == 2 * table
    assert plain.cost(Step(4, optimizer="sgd", **step)).memory.optimizer == 0
    # what must be done is the same on every path
    assert ours.cost(Step(4, optimizer="sgd", **step)).stages == plain.cost(Step(4, optimizer="sgd", **step)).stages
