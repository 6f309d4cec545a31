"""A block of few tokens in C++: awkward sizes against float64, and where it is used."""

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from test_attend_last import plainly
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from layers import build
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.block_step import block_step
from layers.kernels.few_tokens import MOST_TOKENS, can_step
from layers.kernels.stages import observed_by
from layers.models import attention as attention_module
from layers.models.rotary import turns
from layers.spec import AttentionSpec, BlockSpec, DenseSpec, MoESpec, Step
from membench.profiler.stage_clock import StageClock

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-3
SHAPES = {  # sequences, d, query heads, key heads, head dim, capacity, held
    "first": (1, 17, 1, 1, 2, 1, 0),
    "second": (8, 67, 6, 2, 34, 5, 1),
    "full": (2, 96, 4, 4, 64, 17, 16),
    "grouped": (5, 130, 6, 1, 10, 23, 21),
    "long": (1, 200, 2, 1, 128, 1003, 1000),
    "crowd": (37, 40, 4, 2, 6, 9, 7),
}


def drawn(shape, dtype, f=45):
    """x, attention_scale, qkv, out, cosines, sines, keys, values, held, eps, and the FFN's scale, gate_up and down."""
    sequences, d, heads, kv_heads, c, capacity, held = shape
    x, scale, ffn_scale = torch.randn(sequences, d), torch.randn(d), torch.randn(d)
    qkv, out = torch.randn((heads + 2 * kv_heads) * c, d) / d**0.5, torch.randn(d, heads * c) / (heads * c) ** 0.5
    gate_up, down = torch.randn(2 * f, d) / d**0.5, torch.randn(d, f) / f**0.5
    keys, values = (torch.randn(sequences, kv_heads, capacity, c) for _ in range(2))
    angles = (each[held] for each in turns(held + 1, c, 1e4, dtype, "cpu"))
    x, scale, qkv, out, keys, values = (each.to(dtype) for each in (x, scale, qkv, out, keys, values))
    ffn = tuple(each.to(dtype) for each in (ffn_scale, gate_up, down))
    return x, scale, qkv, out, *angles, keys, values, held, EPS, ffn


def normed(x, scale):
    return functional.rms_norm(x.double(), scale.shape, scale.double(), EPS)


def plain_block(x, scale, qkv, out, cosines, sines, keys, values, held, eps, ffn=None):
    """What comes out, keys and values, in float64."""
    projected = normed(x, scale) @ qkv.double().t()
    attended, keys, values = plainly(projected, cosines, sines, keys, values, held)
    y = x.double() + attended @ out.double().t()
    if ffn is not None:
        gate, up = (normed(y, ffn[0]) @ ffn[1].double().t()).chunk(2, dim=-1)
        y = y + (functional.silu(gate) * up) @ ffn[2].double().t()
    return y, keys, values


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("f", [None, 1, 45, 333])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_passes_a_block_and_is_kept(dtype, f, shape, seed):
    torch.manual_seed(seed)
    given = drawn(shape, dtype, f or 1)
    given = given if f else given[:-1]
    expected = plain_block(*given)
    with poisoned_memory():
        found = block_step(*given), *given[6:8]
    assert found[0].dtype == dtype
    for each, wanted in zip(found, expected, strict=True):
        error = error_of_sums(each, wanted, 1)  # weights are small enough for sums of about one
        assert error < (2e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_each_time_by_any_number_of_threads(dtype, restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn((3, 96, 6, 2, 64, 900, 803), dtype, f=1100), []
    for threads in (1, 1, 3, 64):
        torch.set_num_threads(threads)
        found.append(block_step(*given))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_parts_of_other_tensors(seed):
    torch.manual_seed(seed)
    given = list(drawn(SHAPES["full"], torch.float32))
    expected = block_step(*given)
    for place in range(6):
        given[place] = torch.stack([given[place]] * 2, dim=-1)[..., 0]
    given[10] = tuple(torch.stack([each] * 2, dim=-1)[..., 0] for each in given[10])
    assert torch.equal(block_step(*given), expected)


def test_a_nan_shows_in_its_row_alone(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["full"], torch.float32)
    given[0][1, 3] = torch.nan
    found = block_step(*given)
    assert found[1].isnan().all() and found[0].isfinite().all()
    given[0].fill_(1)
    given[10][2][5, 0] = torch.nan
    assert block_step(*given).isnan().nonzero().tolist() == [[0, 5], [1, 5]]


@pytest.mark.parametrize(
    "changed",
    [
        {0: torch.ones(2, 15)},
        {0: torch.ones(3, 16)},
        {0: torch.ones(16)},
        {0: torch.ones(2, 16).double()},
        {1: torch.ones(15)},
        {2: torch.ones(37, 16)},
        {2: torch.ones(12, 16)},
        {2: torch.ones(36, 16).bfloat16()},
        {3: torch.ones(16, 24)},
        {4: torch.ones(5)},
        {5: torch.ones(4, dtype=torch.float64)},
        {6: torch.ones(2, 2, 4, 5).transpose(2, 3)},
        {7: torch.ones(2, 2, 6, 4)},
        {8: 5},
        {8: -1},
        {10: (torch.ones(15), torch.ones(10, 16), torch.ones(16, 5))},
        {10: (torch.ones(16), torch.ones(11, 16), torch.ones(16, 5))},
        {10: (torch.ones(16), torch.ones(10, 16), torch.ones(15, 5))},
        {10: (torch.ones(16), torch.ones(10, 16), torch.ones(16, 5).double())},
    ],
)
def test_what_does_not_fit_is_refused(changed):
    given = list(drawn((2, 16, 5, 1, 4, 5, 4), torch.float32, f=5))
    given[2], given[3] = torch.ones(36, 16), torch.ones(16, 20)
    given[6] = given[7] = torch.ones(2, 2, 5, 4)
    for place, value in changed.items():
        given[place] = value
    with pytest.raises(ValueError, match=r"should be|no heads|none of number"):
        block_step(*given)


def test_where_it_is_used():
    x, weight = torch.ones(1, 4), torch.ones(4, 4)
    assert can_step(x, weight) and can_step(torch.ones(MOST_TOKENS, 4), weight)
    assert not can_step(torch.ones(MOST_TOKENS + 1, 4), weight)
    assert not can_step(x[:0], weight)
    assert not can_step(x.double(), weight.double())
    assert not can_step(x, torch.ones(4, 4, requires_grad=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_step(x, weight)
    with torch.no_grad(), paths.forced("torch"):
        assert not can_step(x, weight)


SHAPE = {"model_dim": 24, "dtype": "float32"}
FFNS = {
    "dense": DenseSpec(ffn_hidden=40, **SHAPE),
    "moe": MoESpec(num_experts=6, expert_hidden=16, top_k=2, **SHAPE),
}


def block_of(kind, sequences):
    attention = AttentionSpec(heads=6, kv_heads=2, head_dim=4)
    block = build(BlockSpec(attention=attention, ffn=FFNS[kind], **SHAPE), seed=1).eval()
    block.make_ready(Step(sequences, mode="decode", sequences=sequences, context=7), seed=2)
    return block


@pytest.mark.parametrize("sequences, few", [(1, True), (MOST_TOKENS, True), (MOST_TOKENS + 1, False)])
@pytest.mark.parametrize("kind", FFNS)
@torch.no_grad()
def test_a_block_decodes_few_tokens_by_it(kind, sequences, few, monkeypatch, seed):
    whole = []

    def noted(*given):
        whole.append(given[10] is not None)
        return block_step(*given)

    monkeypatch.setattr(attention_module, "block_step", noted)
    block, x = block_of(kind, sequences), torch.randn(sequences, 24, generator=torch.Generator().manual_seed(seed))
    found = block(x)
    assert whole == ([kind == "dense"] if few else [])
    with paths.forced("torch"):
        assert relative_rms(found, block(x).double()) < 1e-6


def test_prompts_and_gradients_take_no_step(monkeypatch):
    monkeypatch.setattr(attention_module, "block_step", None)
    block = block_of("dense", 2)
    block(torch.randn(2, 24)).sum().backward()
    assert block.attention.qkv.grad is not None
    with torch.no_grad():
        block.make_ready(Step(6, mode="prefill", sequences=2))
        assert block(torch.randn(6, 24)).shape == (6, 24)
        block.cache = None
        assert block(torch.randn(2, 24)).shape == (2, 24)


@torch.no_grad()
def test_observed_each_stage_is_a_call_with_the_same_bits(seed):
    torch.manual_seed(seed)
    block, x, clock = block_of("dense", 3), torch.randn(3, 24), StageClock("cpu")
    expected = block(x)
    with observed_by(clock):
        clock.begin()
        found = block(x)
        clock.end()
    counted = [stage.name for stage in block.spec.cost(Step(3, mode="decode", sequences=3, context=7)).stages]
    assert torch.equal(found, expected)
    assert [key.name for key in clock.seconds() if key.name != "rest"] == counted


def test_flops_are_those_of_plain_products(seed):
    torch.manual_seed(seed)
    given = drawn((3, 67, 6, 2, 34, 23, 21), torch.float32, f=45)
    attention = 2 * 3 * 67 * (10 + 6) * 34 + 4 * 3 * 6 * 34 * 22
    for call, flops in ((given[:-1], attention), (given, attention + 2 * 3 * 67 * 3 * 45)):
        with FlopCounterMode(display=False) as counter:
            block_step(*call)
        assert counter.get_total_flops() == flops


def test_torch_finds_no_fault_with_the_operator(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["second"], torch.float32)
    for arguments in (given[:-1], (*given[:-1], *given[-1])):
        torch.library.opcheck(torch.ops.membench.block_step.default, arguments)
