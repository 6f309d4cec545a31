"""Mixtures of experts for few tokens in C++: awkward sizes against float64, and where they are used."""

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from few_token_checks import apart, counted_both_ways, given_to_layer
from torch.nn import functional

from layers import build
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.moe_step import MOST_TOKENS, Router, moe_step
from layers.kernels.stages import observed_by
from layers.layer import Routing
from layers.models.block import Block
from layers.spec import AttentionSpec, BlockSpec, MoESpec, Step
from membench.profiler.stage_clock import StageClock

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-3
SHAPES = {  # tokens, d, experts, top-k, hidden, shared hidden
    "smallest": (1, 1, 1, 1, 1, 0),
    "all": (4, 17, 3, 3, 5, 1),
    "odd": (2, 67, 13, 2, 45, 33),
    "many": (3, 20, 130, 8, 9, 0),
    "wide": (1, 130, 5, 2, 333, 0),
    "crowd": (131, 17, 3, 3, 5, 2),
}


def drawn(shape, dtype, *, sigmoid=False, renormalize=False, bias=False, in_block=False):
    """Arguments of ``moe_step`` of so large a gap between experts chosen and not that rounding does not close it."""
    tokens, d, count, k, f, s = shape
    for _ in range(1000):
        x, weight = torch.randn(tokens, d).to(dtype), (torch.randn(count, d) / d**0.5).to(dtype)
        moved = torch.randn(count) if bias else None
        block = (torch.randn(d).to(dtype), EPS) if in_block else None
        router = Router(weight, moved, k, sigmoid, renormalize, None)
        if plainly_chosen(x, block, router)[2] > (1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps):
            experts = torch.randn(count, 2 * f, d) / d**0.5, torch.randn(count, d, f) / f**0.5
            shared = (torch.randn(2 * s, d) / d**0.5, torch.randn(d, s) / s**0.5) if s else None
            both = [None if pair is None else tuple(each.to(dtype) for each in pair) for pair in (experts, shared)]
            return x, block, router, *both
    raise AssertionError("no draw has such a gap")


def plainly_chosen(x, block, router):
    """Experts and weights (B, K) in float64, and the least gap between a score that is chosen and one that is not."""
    logits = given_to_layer(x, block) @ router.weight.double().t()
    scores = logits.sigmoid() if router.sigmoid else logits.softmax(-1)
    moved = scores if router.bias is None else scores + router.bias
    best, experts = moved.sort(dim=-1, descending=True)
    k = router.top_k
    gap = float(((best[:, k - 1] - best[:, k]) / best[:, 0].abs()).min()) if best.shape[1] > k else 1.0
    experts = experts[:, :k]
    weights = scores.gather(1, experts)
    return experts, weights / weights.sum(-1, keepdim=True) if router.renormalize else weights, gap


def swiglu(x, gate_up, down):
    gate, up = (x @ gate_up.double().t()).chunk(2, dim=-1)
    return (functional.silu(gate) * up) @ down.double().t()


def plain(x, block, router, experts, shared):
    chosen, weights, _ = plainly_chosen(x, block, router)
    chosen = chosen if router.chosen is None else router.chosen
    given, y = given_to_layer(x, block), torch.zeros(x.shape).double()
    for b in range(len(x)):
        for expert, weight in zip(chosen[b].tolist(), weights[b], strict=True):
            y[b] += weight * swiglu(given[b], experts[0][expert], experts[1][expert])
    y = y if shared is None else y + swiglu(given, *shared)
    return y if block is None else y + x.double()


def tolerance(dtype):
    return 5e-6 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in_block"])
@pytest.mark.parametrize("sigmoid, renormalize, bias", [(False, False, False), (True, True, True), (False, True, True)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_answer_few_tokens(dtype, shape, sigmoid, renormalize, bias, in_block, seed):
    torch.manual_seed(seed)
    given = drawn(shape, dtype, sigmoid=sigmoid, renormalize=renormalize, bias=bias, in_block=in_block)
    with poisoned_memory():
        found = moe_step(*given)
    assert found.dtype == dtype
    assert error_of_sums(found, plain(*given), 1) < tolerance(dtype)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("tokens", [2, 131])
def test_experts_that_are_given_are_used(tokens, index, seed):
    torch.manual_seed(seed)
    x, block, router, *weights = drawn((tokens, *SHAPES["odd"][1:]), torch.float32)
    imposed = torch.randint(13, (tokens, 2), dtype=index)
    imposed[1] = imposed[0]
    router = Router(router.weight, None, 2, False, False, imposed)
    assert error_of_sums(moe_step(x, block, router, *weights), plain(x, block, router, *weights), 1) < 5e-6
    for wrong, named in ((13, "expert 13 of 13"), (-1, "expert -1 of 13")):
        imposed[1, 0] = wrong
        with pytest.raises(IndexError, match=named):
            moe_step(x, block, router, *weights)


def test_of_equal_scores_the_lower_expert_is_chosen():
    x, router = torch.ones(1, 4), torch.zeros(9, 4)
    router[3], down = -1, torch.zeros(9, 4, 1)
    down[:, :, 0] = 10.0 ** torch.arange(9)[:, None]
    y = moe_step(x, None, Router(router, None, 5, False, True, None), (torch.ones(9, 2, 4), down), None)
    hidden = functional.silu(torch.tensor(4.0)) * 4 / 5
    torch.testing.assert_close(y, (hidden * (1 + 10 + 100 + 10**4 + 10**5)).expand(1, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_each_time_by_any_number_of_threads(dtype, restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn((3, 96, 8, 2, 700, 300), dtype, in_block=True), []
    for threads in (1, 1, 3, 64):
        torch.set_num_threads(threads)
        found.append(moe_step(*given))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_parts_of_other_tensors(seed):
    torch.manual_seed(seed)
    x, block, router, experts, shared = given = drawn(SHAPES["odd"], torch.float32, bias=True, in_block=True)
    lying_apart = Router(apart(router.weight), apart(router.bias), 2, False, False, None)
    found = moe_step(apart(x), (apart(block[0]), EPS), lying_apart, *(tuple(map(apart, p)) for p in (experts, shared)))
    assert torch.equal(found, moe_step(*given))


def test_a_nan_shows_in_its_token_alone(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["odd"], torch.float32)
    given[0][1, 3] = torch.nan
    found = moe_step(*given)
    assert found[0].isfinite().all() and found[1].isnan().all()


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.ones(2, 15)},
        {"x": torch.ones(16)},
        {"x": torch.ones(2, 16).double()},
        {"block": (torch.ones(15), EPS)},
        {"block": (torch.ones(16).half(), EPS)},
        {"weight": torch.ones(5, 15)},
        {"weight": torch.ones(4, 16)},
        {"weight": torch.ones(5, 16).half()},
        {"bias": torch.ones(4)},
        {"bias": torch.ones(5).half()},
        {"top_k": 0},
        {"top_k": 6},
        {"chosen": torch.ones(2, 3).long()},
        {"chosen": torch.ones(2, 2)},
        {"experts": (torch.ones(5, 7, 16), torch.ones(5, 16, 4))},
        {"experts": (torch.ones(5, 8, 16), torch.ones(5, 15, 4))},
        {"experts": (torch.ones(5, 8, 16), torch.ones(5, 16, 4).half())},
        {"shared": (torch.ones(7, 16), torch.ones(16, 4))},
        {"shared": (torch.ones(8, 16), torch.ones(15, 4))},
        {"shared": (torch.ones(8, 16).half(), torch.ones(16, 4))},
    ],
)
def test_what_does_not_fit_is_refused(changed):
    given = {"x": torch.ones(2, 16), "block": None, "experts": (torch.ones(5, 8, 16), torch.ones(5, 16, 4))}
    how = {"weight": torch.ones(5, 16), "bias": None, "top_k": 2, "sigmoid": False, "renormalize": False}
    given |= {"shared": None, **how, "chosen": None, **changed}
    router = Router(**{name: given.pop(name) for name in Router.__slots__})
    with pytest.raises(ValueError, match="should be"):
        moe_step(given["x"], given["block"], router, given["experts"], given["shared"])


SHAPE = {"model_dim": 24, "dtype": "float32"}
LAYERS = {
    "top_1": MoESpec(**SHAPE, num_experts=6, expert_hidden=16, top_k=1),
    "shared": MoESpec(**SHAPE, num_experts=12, expert_hidden=8, top_k=4, shared_hidden=20, router="sigmoid"),
    "biased": MoESpec(**SHAPE, num_experts=6, expert_hidden=16, top_k=2, balancing="bias", renormalize=True),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_layer_and_its_block_answer_few_tokens_by_it(name, seed):
    block = BlockSpec(attention=AttentionSpec(heads=6, kv_heads=2, head_dim=4), ffn=LAYERS[name], **SHAPE)
    layer, block = build(LAYERS[name], seed=1).eval(), build(block, seed=1).eval()
    assert isinstance(block, Block)
    for tokens in (1, MOST_TOKENS, MOST_TOKENS + 1):
        x = torch.randn(tokens, 24, generator=torch.Generator().manual_seed(seed))
        block.make_ready(Step(tokens, mode="decode", sequences=tokens, context=7), seed=2)
        assert (layer.step(x, None, None) is not None) == (tokens <= MOST_TOKENS)
        for of in (layer, block):
            found = of(x)
            with paths.forced("torch"):
                assert relative_rms(found, of(x).double()) < 1e-5


def test_where_it_is_used():
    layer, x = build(LAYERS["biased"], seed=1), torch.randn(2, 24)
    assert layer.eval().step(x, None, None) is None  # experts would get no gradient
    with torch.no_grad():
        assert layer.train().step(x, None, None) is None  # nobody would count the experts' load
        assert layer.eval().step(x, None, None) is not None
        chosen = torch.randint(6, (2, 2))
        found = layer(x, Routing(selected=chosen))
        with paths.forced("torch"):
            assert relative_rms(found, layer(x, Routing(selected=chosen)).double()) < 1e-6
        assert layer.half().step(x.half(), None, None) is not None
        assert layer.double().step(x.double(), None, None) is None
        by_experts = MoESpec(**SHAPE, num_experts=6, expert_hidden=16, top_k=2, choice="expert")
        assert build(by_experts, seed=1).eval().step(x, None, None) is None
        assert build(LAYERS["top_1"], ranks=2, seed=1).eval().step(x, None, None) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert build(LAYERS["top_1"], seed=1).eval().step(x, None, None) is None


def test_no_loss_is_left_from_training():
    layer = build(LAYERS["top_1"], seed=1)
    layer.train()(torch.randn(5, 24))
    assert layer.auxiliary_loss is not None
    with torch.no_grad():
        layer.eval()(torch.randn(1, 24))
    assert layer.auxiliary_loss is None


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_observed_each_stage_is_a_call_with_the_same_bits(name, seed):
    torch.manual_seed(seed)
    layer, x, clock = build(LAYERS[name], seed=1).eval(), torch.randn(3, 24), StageClock("cpu")
    expected = layer(x)
    with observed_by(clock):
        clock.begin()
        found = layer(x)
        clock.end()
    counted = [stage.name for stage in layer.spec.cost(Step(3, mode="forward")).stages]
    assert torch.equal(found, expected)
    seen = [key.name for key in clock.seconds() if key.name != "rest"]
    assert [next(name for name in seen if each.startswith(name)) for each in counted]
    assert all(any(each.startswith(name) for each in [*counted, "dispatch"]) for name in seen)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_flops_are_those_of_the_parts(name):
    layer, x = build(LAYERS[name], seed=1).eval(), torch.randn(3, 24)
    by_one_call, by_parts = counted_both_ways(layer, x)
    assert by_one_call == by_parts > 0


def test_torch_finds_no_fault_with_the_operator(seed):
    torch.manual_seed(seed)
    x, (scale, eps), router, experts, shared = drawn(SHAPES["odd"], torch.float32, bias=True, in_block=True)
    how = (getattr(router, name) for name in Router.__slots__)
    torch.library.opcheck(torch.ops.membench.moe_step.default, (x, scale, eps, *how, *experts, *shared))
