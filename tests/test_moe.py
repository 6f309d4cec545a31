"""MoE against its float64 reference: parameters, counted FLOPs, values, every gradient, routing, ties, balancing."""

import random

import pytest
import torch
from against_reference import assert_matches, counted_flops, double_weights, poisoned_memory

from layers.checking import reference
from layers.layer import RemoteAssignments, Routing
from layers.moe import MoE, top
from layers.spec import MoESpec, Step

CONFIGS = 200
SMALL = {"model_dim": 24, "num_experts": 8, "expert_hidden": 16, "top_k": 3, "dtype": "float32"}


@pytest.fixture
def rng(seed):
    torch.manual_seed(seed)
    return random.Random(seed)


def random_spec(rng, largest, dtype="float32"):
    experts, choice = rng.choice([1, 2, rng.randint(1, 12)]), rng.choice(["token", "token", "expert"])
    top_k = rng.choice([1, experts, rng.randint(1, experts)])
    least = 1 if dtype == "float32" else 8  # of a few 16-bit numbers the RMS may be one that lies near a zero
    return MoESpec(
        model_dim=rng.randint(least, largest),
        num_experts=experts,
        expert_hidden=rng.randint(least, largest),
        top_k=top_k,
        shared_hidden=rng.choice([0, rng.randint(1, largest)]),
        choice=choice,
        router=rng.choice(["softmax", "sigmoid"]),
        renormalize=(top_k > 1 or choice == "expert") and rng.random() < 0.5,
        balancing=rng.choice(["none", "loss"] if choice == "expert" else ["none", "loss", "bias"]),
        z_loss_weight=rng.choice([0.0, 0.01]),
        capacity_factor=rng.choice([0.5, 1.0, 1.3]),
        dtype=dtype,
    )


def expected_output(spec, w, x, chosen, computed_by=None):
    if spec.choice == "expert":
        return reference.moe_expert_choice(spec, w, x, chosen)
    return reference.moe_token_choice(spec, w, x, chosen, chosen if computed_by is None else computed_by)


def check(layer, tokens, routing=None, computed_by=None):
    """Output, auxiliary loss and all gradients, given the layer's own selection."""
    spec, dtype = layer.spec, layer.spec.dtype
    x = torch.randn(tokens, spec.model_dim).to(layer.router.dtype).requires_grad_()
    dy = torch.randn_like(x)
    chosen = layer.select(x).indices
    with poisoned_memory():
        y, loss = layer(x, routing), layer.auxiliary_loss
        (y * dy).sum().backward(retain_graph=loss is not None)
        if loss is not None:
            loss.backward()

    def expected(leaf):
        w, x64 = double_weights(layer, leaf), leaf(x)
        y64 = expected_output(spec, w, x64, chosen, computed_by)
        loss64 = reference.moe_auxiliary_loss(spec, w, x64, chosen)
        ((y64 * dy.double()).sum() + loss64).backward()
        gradients = {name: weight.grad for name, weight in w.items()}
        if gradients["router"] is not None and gradients["router"].abs().max() < 1e-12:
            gradients["router"] = None  # its weights are constant: a softmax over one, say
        return {"y": y64, "dx": x64.grad, **gradients}

    wanted_loss = reference.moe_auxiliary_loss(spec, double_weights(layer), x.detach().double(), chosen).item()
    assert abs((0.0 if loss is None else loss.item()) - wanted_loss) <= 1e-5 * (1 + wanted_loss)
    found = {"y": y, "dx": x.grad, **{name: parameter.grad for name, parameter in layer.named_parameters()}}
    assert_matches(found, expected, dtype, str(spec))


def test_params_are_numel(rng):
    for _ in range(CONFIGS):
        spec = random_spec(rng, largest=4096)
        layer = MoE(spec, device="meta")
        assert spec.cost(Step(7)).params == sum(p.numel() for p in layer.parameters()), spec
        ranks = rng.randint(1, spec.num_experts)
        if spec.choice == "token":
            share = MoE(spec, ranks, device="meta")
            assert spec.cost(Step(7, ranks=ranks)).rank_params == sum(p.numel() for p in share.parameters()), (
                spec,
                ranks,
            )


def test_flops_are_counted_ones(rng):
    for _ in range(CONFIGS):
        spec, tokens = random_spec(rng, largest=24), rng.randint(1, 12)
        layer = MoE(spec)
        w = double_weights(layer)
        x = torch.randn(tokens, spec.model_dim, dtype=torch.float64, requires_grad=True)
        chosen = layer.select(x.detach().float()).indices

        def run(spec=spec, w=w, x=x, chosen=chosen):
            return expected_output(spec, w, x, chosen)

        load = layer.load(chosen)
        counts = {"assignments": float(load.sum()), "active_experts": float(load.count_nonzero())}
        forward, both = counted_flops(run)
        assert spec.cost(Step(tokens, **counts)).flops == forward, spec
        assert spec.cost(Step(tokens, mode="forward_backward", **counts)).flops == both, spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_and_gradients(dtype, rng):
    for _ in range(CONFIGS):
        layer = MoE(random_spec(rng, largest=40, dtype=dtype))
        if layer.expert_bias is not None:
            layer.expert_bias.normal_(0, 0.1)
        check(layer, rng.choice([1, 2, 7, rng.randint(1, 30)]))


def test_many_experts(rng):
    layer = MoE(MoESpec(model_dim=128, num_experts=64, expert_hidden=48, top_k=8, dtype="float32"))
    check(layer, tokens=200)


@pytest.mark.parametrize("case", ["all tokens to some", "uniform", "one busy expert"])
def test_imposed_routing(case, rng):
    layer, tokens = MoE(MoESpec(**SMALL, shared_hidden=8)), 40
    uniform = torch.stack([torch.randperm(8)[:3] for _ in range(tokens)])
    selected = {
        "all tokens to some": torch.tensor([[5, 1, 2]]).expand(tokens, 3),
        "uniform": uniform,
        "one busy expert": torch.cat([torch.zeros(tokens, 1, dtype=torch.long), 1 + uniform[:, :2] % 7], dim=1),
    }[case]
    check(layer, tokens, Routing(selected=selected), computed_by=selected)
    if case == "all tokens to some":
        idle = [0, 3, 4, 6, 7]
        for gradient in (layer.expert_gate_up.grad, layer.expert_down.grad):
            assert gradient is not None and not gradient[idle].any()


def test_an_imposed_routing_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"selected is \(5, 2\), not \(5, 3\)"):
        MoE(MoESpec(**SMALL))(torch.randn(5, 24), Routing(selected=torch.zeros(5, 2, dtype=torch.long)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_ranks_share(dtype, rng):
    for _ in range(20):
        experts, tokens = rng.randint(2, 20), rng.randint(1, 30)
        ranks = rng.randint(2, experts)
        sizes = {"model_dim": 21, "num_experts": experts, "expert_hidden": 19, "top_k": rng.randint(1, experts)}
        layer = MoE(MoESpec.model_validate({**sizes, "router": "sigmoid", "renormalize": False, "dtype": dtype}), ranks)
        held, slots = layer.spec.experts_on_rank(ranks), tokens * layer.spec.top_k
        rows = slots + rng.choice([0, rng.randint(0, 2 * slots)])
        expert_of_row = torch.randint(rng.randint(1, held), (rows,)).sort().values
        counts = torch.bincount(expert_of_row, minlength=held)
        computed_by = expert_of_row[:slots].view(layer.spec.top_k, tokens).t()  # row k·B + t is token t's k-th
        check(layer, tokens, Routing(remote=RemoteAssignments(counts)), computed_by)


def test_too_few_remote_rows_are_refused():
    layer = MoE(MoESpec(**SMALL), ranks=4)
    with pytest.raises(ValueError, match="sum to 8 rows, fewer than the 15 slots"):
        layer(torch.randn(5, 24), Routing(remote=RemoteAssignments(torch.tensor([8, 0]))))


def test_of_equal_scores_the_lower_index_wins(rng):
    for _ in range(100):
        scores = (2 * torch.randn(rng.randint(1, 99), rng.randint(1, 40))).round()  # many ties, and -0.0
        k = rng.randint(1, scores.shape[1])
        assert torch.equal(top(scores, k), scores.sort(dim=-1, descending=True, stable=True).indices[:, :k])


def test_equal_experts_are_taken_in_order():
    layer = MoE(MoESpec(**SMALL))
    with torch.no_grad():
        layer.router.zero_()
    assert layer.select(torch.randn(4, 24)).indices.tolist() == [[0, 1, 2]] * 4


@pytest.mark.parametrize("choice", ["token", "expert"])
def test_the_same_twice(choice, rng):
    layer = MoE(MoESpec(**SMALL, choice=choice, shared_hidden=8))
    x = torch.randn(40, 24, requires_grad=True)
    seen = []
    for _ in range(2):
        layer.zero_gradients()
        x.grad = None
        y = layer(x)
        y.square().sum().backward()
        seen.append([y, x.grad, *(p.grad for p in layer.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*seen, strict=True))


def test_the_bias_moves_the_choice_but_not_the_weights(rng):
    layer, x = MoE(MoESpec(**SMALL, balancing="bias", renormalize=False)), torch.randn(40, 24)
    scores = torch.softmax(x @ layer.router.t(), dim=-1)
    layer.expert_bias.copy_(torch.tensor([-1.0, 1.0, 0, 0, 0, 0, 0, 0]))
    selection = layer.select(x)
    assert (selection.indices[:, 0] == 1).all() and not (selection.indices == 0).any()
    torch.testing.assert_close(selection.weights, scores.gather(1, selection.indices))
    assert "expert_bias" in dict(layer.named_buffers()) and layer.expert_bias.dtype == torch.float32
    assert selection.auxiliary_loss is None


def test_loss_free_balancing_evens_the_load(rng):
    layer = MoE(MoESpec(**{**SMALL, "top_k": 1}, balancing="bias", bias_rate=0.01))
    x = torch.randn(400, 24) + 0.5

    def spread():
        load = layer.load(layer.select(x).indices)
        assert load.sum() == 400
        return load.float().std().item()

    before = spread()
    for _ in range(300):
        layer.update_bias(layer.load(layer.select(x).indices), layer.spec.bias_rate)
    assert spread() < before / 3
    with pytest.raises(ValueError, match="no bias to update"):
        MoE(MoESpec(**SMALL)).update_bias(torch.zeros(8), 0.1)


def test_load_and_unrouted_tokens(rng):
    layer = MoE(MoESpec(**SMALL))
    chosen = layer.select(torch.randn(40, 24)).indices
    assert torch.equal(layer.load(chosen), torch.bincount(chosen.flatten(), minlength=8))
    assert layer.unrouted_tokens(chosen, 40) == 0
    layer = MoE(MoESpec(**{**SMALL, "top_k": 1}, choice="expert", capacity_factor=0.5))
    chosen = layer.select(torch.randn(40, 24)).indices
    assert layer.load(chosen).tolist() == [3] * 8  # ceil(0.5 · 1 · 40 / 8)
    assert layer.unrouted_tokens(chosen, 40) == 40 - len(set(chosen.flatten().tolist())) >= 40 - 24
    assert layer.spec.labels == ("non-causal",)


def test_the_auxiliary_loss_is_for_training_only():
    layer, x = MoE(MoESpec(**SMALL, z_loss_weight=0.1)), torch.randn(4, 24)
    layer(x)
    assert layer.auxiliary_loss is not None
    layer.eval()(x)
    assert layer.auxiliary_loss is None


def test_parameter_names_and_shapes():
    layer = MoE(MoESpec(**SMALL, shared_hidden=5), ranks=3)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "router": (8, 24),
        "expert_gate_up": (3, 32, 24),
        "expert_down": (3, 24, 16),
        "shared.gate_up": (10, 24),
        "shared.down": (24, 5),
    }
