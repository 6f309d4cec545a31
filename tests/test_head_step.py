"""A decoder's last norm and head in one call: awkward sizes against float64, and where it is used."""

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from few_token_checks import apart, given_to_layer
from torch.utils.flop_counter import FlopCounterMode

from layers import build
from layers.kernels import paths
from layers.kernels.head_step import head_step
from layers.kernels.stages import observed_by
from layers.spec import AttentionSpec, DenseSpec, ModelSpec
from membench.profiler.stage_clock import StageClock

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
EPS = 1e-3


def drawn(rows, model_dim, vocabulary, dtype):
    shapes = (rows, model_dim), (model_dim,), (vocabulary, model_dim)
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("rows, model_dim, vocabulary", [(1, 1, 1), (1, 67, 301), (3, 130, 17), (8, 96, 1030)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_against_float64(dtype, rows, model_dim, vocabulary, seed):
    torch.manual_seed(seed)
    x, scale, head = drawn(rows, model_dim, vocabulary, dtype)
    normed = given_to_layer(x, (scale, EPS))
    with poisoned_memory():
        found = head_step(x, scale, head, EPS)
    assert found.shape == (rows, vocabulary) and found.dtype == dtype
    assert error_of_sums(found, normed @ head.double().t(), model_dim) < TOLERANCE[dtype]


def test_the_same_bits_by_any_number_of_threads_and_of_parts(restored_threads, seed):
    torch.manual_seed(seed)
    given, found = drawn(2, 193, 500, torch.float32), []
    for threads, of in ((1, given), (3, given), (64, map(apart, given))):
        torch.set_num_threads(threads)
        found.append(head_step(*of, EPS))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_nan_shows_in_its_row_alone():
    x, scale, head = drawn(3, 20, 40, torch.float32)
    x[1, 7] = torch.nan
    assert head_step(x, scale, head, EPS).isnan().all(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("number", "given", "told"),
    [
        (1, torch.ones(7), r"scale should be \(d,\)"),
        (2, torch.ones(4, 7), r"head should be \(V, d\)"),
        (2, torch.ones(4, 8).bfloat16(), "head"),
    ],
)
def test_what_does_not_fit_is_refused(number, given, told):
    operands = drawn(2, 8, 4, torch.float32)
    operands[number] = given
    with pytest.raises(ValueError, match=told):
        head_step(*operands, EPS)


def test_torch_finds_no_fault_with_the_operator():
    torch.library.opcheck(torch.ops.membench.head_step.default, (*drawn(2, 8, 5, torch.float32), EPS))


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_ends_with_it(tied, seed):
    """Its stage is the head's, and its FLOPs are those of the product."""
    spec = ModelSpec(
        layer=DenseSpec(model_dim=24, ffn_hidden=32, dtype="float32"),
        at=(0,),
        num_blocks=1,
        vocab_size=50,
        model_dim=24,
        attention=AttentionSpec(heads=2, kv_heads=2, head_dim=12),
        ffn_hidden=32,
        tied=tied,
        dtype="float32",
    )
    model = build(spec, seed=0).eval()
    hidden = torch.randn(3, 24)
    with torch.no_grad(), observed_by(clock := StageClock("cpu")), FlopCounterMode(display=False) as counter:
        found = model.logits(hidden)
    assert {key.name for key in clock.seconds()} == {"head"}
    assert counter.get_total_flops() == 2 * 3 * 24 * 50
    head = model.embedding if tied else model.head
    expected = given_to_layer(hidden, (model.norm.detach(), model.spec.norm_eps)) @ head.detach().double().t()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
