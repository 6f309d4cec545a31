"""A router's choice in Triton against torch's calls in float64, and slots sorted by expert against a stable sort."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import random

import pytest
import torch
import triton_interpreter  # noqa: F401
from against_reference import poisoned_memory
from test_moe import SMALL, check, random_spec

from layers.kernels import dispatch, paths, router
from layers.kernels.triton import dispatch as triton_dispatch
from layers.kernels.triton import router as triton_router
from layers.layer import Routing
from layers.moe import MoE
from layers.spec import MoESpec

ROUTERS = [(sigmoid, renormalize) for sigmoid in (False, True) for renormalize in (False, True)]


@pytest.fixture(autouse=True)
def _by_triton(seed):
    torch.manual_seed(seed)
    with paths.forced("triton"):
        yield


def by_definition(logits, bias, top_k, sigmoid, renormalize):
    """In float64, of scores as torch has them; ties by a stable sort."""
    scores = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, dim=-1)
    ranked = scores.detach() if bias is None else scores.detach() + bias
    chosen = ranked.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = scores.gather(1, chosen)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    shares = (scores / scores.sum(dim=-1, keepdim=True)).sum(dim=0)
    return chosen, weights, shares, torch.bincount(chosen.flatten(), minlength=logits.shape[1])


def draw_logits(tokens, experts, levels):
    """Far apart, or of a few values: what lies within rounding of each other may be ranked either way."""
    if levels is None:
        return torch.rand(tokens, experts).argsort(dim=1) / experts * 4 - 2
    return torch.randint(-levels, levels + 1, (tokens, experts)) / 2.0


def assert_right(logits, bias, top_k, sigmoid, renormalize):
    logits = logits.to(DEVICE)
    bias = None if bias is None else bias.to(DEVICE)
    of_weights, of_shares = torch.randn(len(logits), top_k), torch.randn(logits.shape[1])
    of_weights, of_shares = of_weights.to(DEVICE), of_shares.to(DEVICE)
    results = []
    for _ in range(2):
        with poisoned_memory():
            leaf = logits.clone().requires_grad_()
            found = router.route(leaf, bias, top_k, sigmoid=sigmoid, renormalize=renormalize, totals=True)
            loss = (found.weights * of_weights).sum() + (found.totals.shares * of_shares).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        results.append((found.chosen, found.weights.detach(), *(each.detach() for each in found.totals), gradient))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    with torch.no_grad():
        alone = router.route(logits, bias, top_k, sigmoid=sigmoid, renormalize=renormalize, totals=False)
    assert alone.totals is None and torch.equal(alone.chosen, results[0][0])
    assert torch.equal(alone.weights, results[0][1])

    wide = logits.double().requires_grad_()
    ranked_by = None if bias is None else bias.double()
    chosen, weights, shares, load = by_definition(wide, ranked_by, top_k, sigmoid, renormalize)
    (wanted,) = torch.autograd.grad((weights * of_weights).sum() + (shares * of_shares).sum(), wide)
    assert torch.equal(results[0][0], chosen) and torch.equal(results[0][3], load)
    for given, expected in ((results[0][1], weights), (results[0][2], shares), (results[0][4], wanted)):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given.double(), expected.detach(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("sigmoid", "renormalize"), ROUTERS)
@pytest.mark.parametrize("levels", [0, 1, None])
def test_against_float64(levels, sigmoid, renormalize):
    assert_right(draw_logits(17, 7, levels), None, 3, sigmoid, renormalize)


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 1, 1), (3, 2, 2), (19, 64, 8), (2, 65, 33)])
def test_awkward_sizes(tokens, experts, top_k):
    assert_right(draw_logits(tokens, experts, None), None, top_k, False, True)


def test_a_bias_moves_the_choice_and_not_the_weights():
    assert_right(draw_logits(9, 9, None), torch.arange(9).float(), 4, True, True)


def test_random_sizes():
    for _ in range(8):
        experts, tokens = (int(torch.randint(1, most, ())) for most in (20, 30))
        top_k, kind = int(torch.randint(1, experts + 1, ())), ROUTERS[int(torch.randint(4, ()))]
        levels = [None, 1, 3][int(torch.randint(3, ()))]
        assert_right(draw_logits(tokens, experts, levels), None, top_k, *kind)


def test_shares_of_many_tokens_are_added_up(monkeypatch):
    monkeypatch.setattr(triton_router, "_PARTS", 2)
    assert_right(draw_logits(50, 3, None), None, 2, False, True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("bits", [0x7FC00000, -0x400000])
def test_one_nan_of_either_sign_shows(bits, sigmoid):
    logits = torch.randn(4, 9, device=DEVICE)
    logits[1, 5] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    chosen, weights, _ = router.route(logits, None, 3, sigmoid=sigmoid, renormalize=True, totals=False)
    assert weights[1].isnan().any() and not weights[[0, 2, 3]].isnan().any()
    assert bool(((chosen >= 0) & (chosen < 9)).all()) and all(len(each.unique()) == 3 for each in chosen)


@pytest.mark.skipif(DEVICE == "cuda", reason="layers are made on a CPU here")
@pytest.mark.parametrize("case", ["token", "sigmoid", "bias", "bfloat16", "imposed"])
def test_a_layer_with_its_gradients(case):
    changes = {
        "sigmoid": {"router": "sigmoid", "z_loss_weight": 0.01},
        "bias": {"balancing": "bias"},
        "bfloat16": {"dtype": "bfloat16"},
    }
    layer = MoE(MoESpec(**{**SMALL, **changes.get(case, {})}))
    if layer.expert_bias is not None:
        layer.expert_bias.normal_(0, 0.1)
    selected = torch.stack([torch.randperm(8)[:3] for _ in range(9)]) if case == "imposed" else None
    check(layer, 9, None if selected is None else Routing(selected=selected), computed_by=selected)


@pytest.mark.skipif(DEVICE == "cuda", reason="layers are made on a CPU here")
def test_random_layers(seed):
    rng = random.Random(seed)
    for _ in range(3):
        check(MoE(random_spec(rng, largest=12)), rng.randint(1, 8))


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts"), [(0, 2, 3), (1, 1, 1), (5, 3, 3), (70, 2, 5), (20, 4, 64), (3, 2, 300)]
)
def test_slots_are_sorted_by_expert(tokens, top_k, experts, monkeypatch):
    monkeypatch.setattr(triton_dispatch, "_HELD", 128)
    monkeypatch.setattr(triton_dispatch, "_PARTS", 5)
    for spread in (1, 2, experts):
        selected = torch.randint(min(spread, experts), (tokens, top_k)).to(DEVICE)
        assert_sorted(selected, experts)


def test_slots_of_random_sizes(monkeypatch):
    monkeypatch.setattr(triton_dispatch, "_HELD", 64)
    for _ in range(6):
        tokens, top_k, experts = (int(torch.randint(1, most, ())) for most in (30, 5, 12))
        assert_sorted(torch.randint(experts, (tokens, top_k)).to(DEVICE), experts)


def assert_sorted(selected, experts):
    with paths.forced("torch"):
        wanted = dispatch.by_expert(selected, experts)
    for _ in range(2):
        with poisoned_memory():
            found = dispatch.by_expert(selected, experts)
        for name in ("token", "ends", "slot", "returned", "starts"):
            one, other = getattr(found, name), getattr(wanted, name)
            assert one.dtype == other.dtype and torch.equal(one, other), name


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_torch_finds_no_fault_with_the_operators():
    logits, bias = torch.randn(5, 6), torch.randn(6)
    torch.library.opcheck(torch.ops.membench.route.default, (logits, bias, 2, True, True, True))
    torch.library.opcheck(torch.ops.membench.route.default, (logits, None, 3, False, False, False))
    chosen, of_weights = torch.randint(6, (5, 2)), torch.randn(5, 2)
    for given in ((of_weights, bias), (None, bias), (of_weights, None)):
        torch.library.opcheck(torch.ops.membench.route_backward.default, (logits, chosen, *given, False, True))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.dispatch import by_expert
from layers.kernels.triton.router import route, route_backward
for tokens in (16, 33):
    chosen, weights, shares, load = route(torch.randn(tokens, 64), None, 8, False, True, True)
for tokens in (16, 33):
    chosen = torch.zeros(tokens, 8, dtype=torch.int64)
    route_backward(torch.randn(tokens, 64), chosen, torch.randn(tokens, 8), torch.randn(64), False, True)
for tokens in (16, 33):
    by_expert(torch.zeros(tokens, 8, dtype=torch.int64), 64)
""")
    assert launched[:2] == launched[2:4] and launched[4] == launched[5] and launched[6:8] == launched[8:]
