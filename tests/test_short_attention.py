"""Attention within short sequences in C++: awkward sizes against float64, and where it is used."""

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from layers import build
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.short_attention import MOST_TOKENS, is_short, short_attention
from layers.models import attention as attention_module
from layers.models.rotary import turned, turns
from layers.spec import AttentionSpec, BlockSpec, DenseSpec, Step

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {  # sequences, tokens, query heads, key heads, head dim
    "least": (1, 1, 1, 1, 2),
    "odd": (3, 7, 6, 2, 34),
    "facts": (117, 4, 4, 4, 16),
    "one key head": (2, 5, 6, 1, 10),
    "longest": (2, MOST_TOKENS, 2, 2, 96),
    "longer": (1, 67, 4, 2, 40),
}


def drawn(shape, dtype):
    """projected, cosines, sines, heads; and a gradient of what comes out."""
    sequences, tokens, heads, kv_heads, head_dim = shape
    projected = torch.randn(sequences, tokens, (heads + 2 * kv_heads) * head_dim).to(dtype)
    angles = (each[:tokens] for each in turns(tokens, head_dim, 1e4, dtype, "cpu"))
    return projected, *angles, heads, torch.randn(sequences, tokens, heads * head_dim).to(dtype)


def both(projected, cosines, sines, heads, upstream):
    """What comes out, and the gradient of what is projected."""
    projected = projected.clone().requires_grad_()
    found = short_attention(projected, cosines, sines, heads)
    return found.detach(), *torch.autograd.grad(found, projected, upstream)


def plain_both(projected, cosines, sines, heads, upstream):
    """The same in float64."""
    projected, cosines, sines, upstream = (each.double() for each in (projected, cosines, sines, upstream))
    (sequences, tokens, width), head_dim = projected.shape, cosines.shape[1]
    kv_heads = (width // head_dim - heads) // 2
    projected.requires_grad_()
    placed = projected.view(sequences, tokens, -1, head_dim).transpose(1, 2)
    queries, keys = turned(placed[:, :-kv_heads], cosines, sines).split([heads, kv_heads], dim=1)
    found = functional.scaled_dot_product_attention(
        queries, keys, placed[:, -kv_heads:], is_causal=True, enable_gqa=True
    )
    found = found.transpose(1, 2).reshape(sequences, tokens, -1)
    return found.detach(), *torch.autograd.grad(found, projected, upstream)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_attended_and_its_gradient(dtype, shape, seed):
    torch.manual_seed(seed)
    given = drawn(shape, dtype)
    expected = plain_both(*given)
    with poisoned_memory():
        found = both(*given)
    for each, wanted in zip(found, expected, strict=True):
        assert (each.dtype, each.shape) == (dtype, wanted.shape)
        assert relative_rms(each, wanted) < (1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps)


def test_the_same_bits_each_time_by_any_number_of_threads(restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn((9, 16, 6, 2, 64), torch.float32), []
    for threads in (1, 1, 3, 64):
        torch.set_num_threads(threads)
        found.append(both(*given))
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


def test_parts_of_other_tensors(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["odd"], torch.float32)
    apart = [torch.stack([each] * 2, dim=-1)[..., 0] if torch.is_tensor(each) else each for each in given]
    assert not apart[4].is_contiguous()
    for one, other in zip(both(*given), both(*apart), strict=True):
        assert torch.equal(one, other)


def test_large_scores_stay_finite():
    given = drawn((1, 3, 1, 1, 4), torch.float32)
    given[0].fill_(1e4)
    assert all(each.isfinite().all() for each in both(*given))


def test_a_nan_stays_in_its_sequence_and_shows_in_what_sees_it(seed):
    torch.manual_seed(seed)
    given = drawn((2, 4, 1, 1, 4), torch.float32)
    given[0][1, 2, 8] = torch.nan  # of the first value column
    found = both(*given)[0]
    assert found.isnan().nonzero().tolist() == [[1, 2, 0], [1, 3, 0]]


@pytest.mark.parametrize(
    "changed",
    [
        {0: torch.ones(6, 36)},
        {0: torch.ones(2, 3, 32)},
        {0: torch.ones(2, 3, 37)},
        {0: torch.ones(2, 4, 36)},
        {0: torch.ones(2, 3, 36, dtype=torch.bfloat16)},
        {1: torch.ones(3, 5)},
        {2: torch.ones(3, 4, dtype=torch.float64)},
        {3: 4},
        {3: 5},
        {3: 9},
        {3: 0},
    ],
)
def test_what_does_not_fit_is_refused(changed):
    given = [torch.ones(2, 3, 36), torch.ones(3, 4), torch.ones(3, 4), 3]
    assert short_attention(*given).shape == (2, 3, 12)
    for place, value in changed.items():
        given[place] = value
    with pytest.raises(ValueError, match=r"should be|are projected"):
        short_attention(*given)


def test_where_it_is_used():
    short = torch.ones(2, MOST_TOKENS, 12)
    assert is_short(short) and is_short(short.bfloat16())
    assert not is_short(short.double())
    assert not is_short(torch.ones(2, MOST_TOKENS + 1, 12))
    assert not is_short(short[:, :0])
    with paths.forced("torch"):
        assert not is_short(short)


@pytest.mark.parametrize("tokens, short", [(1, True), (MOST_TOKENS, True), (MOST_TOKENS + 1, False)])
def test_a_block_attends_short_sequences_by_it(tokens, short, monkeypatch, seed):
    calls = []

    def noted(*given):
        calls.append(given)
        return short_attention(*given)

    monkeypatch.setattr(attention_module, "short_attention", noted)
    shape = {"model_dim": 24, "dtype": "float32"}
    attention = AttentionSpec(heads=6, kv_heads=2, head_dim=4)
    block = build(BlockSpec(attention=attention, ffn=DenseSpec(ffn_hidden=40, **shape), **shape), seed=1)
    block.make_ready(Step(3 * tokens, mode="forward_backward", sequences=3))
    x = torch.randn(3 * tokens, 24, generator=torch.Generator().manual_seed(seed))

    def gradients():
        block.zero_gradients()
        (block(x) ** 2).sum().backward()
        return [each.grad for each in block.parameters()]

    found = gradients()
    assert len(calls) == short
    with paths.forced("torch"):
        for one, other in zip(found, gradients(), strict=True):
            assert relative_rms(one, other.double()) < 1e-5
    assert len(calls) == short


def test_what_follows_a_context_is_attended_over_it(monkeypatch):
    monkeypatch.setattr(attention_module, "short_attention", None)
    shape = {"model_dim": 24, "dtype": "float32"}
    attention = AttentionSpec(heads=6, kv_heads=2, head_dim=4)
    block = build(BlockSpec(attention=attention, ffn=DenseSpec(ffn_hidden=40, **shape), **shape), seed=1)
    block.make_ready(Step(6, mode="prefill", sequences=2, context=5), seed=2)
    with torch.no_grad():
        assert block(torch.randn(6, 24)).shape == (6, 24)


def test_flops_are_those_that_a_spec_counts(seed):
    torch.manual_seed(seed)
    given = drawn(SHAPES["odd"], torch.float32)
    with FlopCounterMode(display=False) as counter:
        both(*given)
    step = Step(21, mode="forward_backward", sequences=3)
    stages = AttentionSpec(heads=6, kv_heads=2, head_dim=34).stages(step, 24, 4)
    assert counter.get_total_flops() == sum(stage.flops for stage in stages if stage.name == "attention")


def test_torch_finds_no_fault_with_the_operators(seed):
    torch.manual_seed(seed)
    *given, upstream = drawn(SHAPES["odd"], torch.float32)
    torch.library.opcheck(torch.ops.membench.short_attention.default, given)
    torch.library.opcheck(torch.ops.membench.short_attention_backward.default, (upstream, *given))
