"""Products with bf16 and fp32 matrices in C++: every tile's width, awkward sizes, and where they are used."""

import pytest
import torch
from against_reference import counted_flops, error_of_sums, poisoned_memory

from layers import build, spec_from
from layers.checking.verification import relative_rms
from layers.kernels import matmul, paths
from layers.kernels.key_scores import key_scores
from layers.kernels.native import grouped_matmul as native
from layers.spec import Step

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

HALF_A_BIT = torch.finfo(torch.bfloat16).eps / 2  # what rounding a result to bf16 may cost; the sums cost far less
ROWS = {
    "one": [1],
    "every width of a tile": [*range(1, 14)],
    "empty first, middle and last": [0, 3, 0, 0, 17, 0],
    "none": [0, 0],
    "more than a tile": [32, 50, 100],
}
SIZES = [(1, 1), (5, 31), (64, 32), (67, 33), (130, 1100), (3, 2100), (100, 64)]


@pytest.fixture(params=[True, False], ids=["without bf16 units", "with"])
def without_units(request, monkeypatch):
    """A processor of either kind, whatever this one is."""
    monkeypatch.setattr(native, "_lacks_bf16_units", lambda: request.param)
    return request.param


def rounded(*shape):
    return torch.randn(*shape).bfloat16()


def groups(counts):
    """(E,) where each group ends, and each row's group."""
    counts = torch.tensor(counts)
    return counts.cumsum(0).to(torch.int32), torch.repeat_interleave(torch.arange(len(counts)), counts)


def is_right(found, expected, terms):
    """Of bf16 to half a bit; of fp32 to what so many terms cost."""
    if found.dtype == torch.bfloat16:
        return relative_rms(found, expected) < HALF_A_BIT
    return error_of_sums(found, expected, terms) < 1e-6


@pytest.mark.parametrize("draw", [rounded, torch.randn], ids=["bf16", "fp32"])
@pytest.mark.parametrize("n, m", SIZES)
@pytest.mark.parametrize("counts", ROWS.values(), ids=ROWS)
def test_products(counts, n, m, draw, seed):
    torch.manual_seed(seed)
    ends, group = groups(counts)
    rows, tokens = len(group), 7
    token = torch.randint(tokens, (rows,))
    x, y, weight = draw(tokens, m), draw(rows, n), draw(len(counts), n, m)
    own, other = x.dtype, torch.float32 if x.dtype == torch.bfloat16 else torch.bfloat16
    of_row = weight.double()[group]
    with poisoned_memory():
        linear = native.grouped_linear(x, weight, ends, token)
        of_other = native.grouped_linear(x.to(other)[token], weight, ends)
        back = native.grouped_linear(y, weight.mT, ends)
        gradient = native.grouped_linear_gradients(y, x, ends, x_token=token)
    assert (linear.dtype, of_other.dtype, back.dtype, gradient.dtype) == (own, other, own, own)
    if rows:
        for found, given in ((linear, x), (of_other, x.to(other))):
            assert is_right(found, torch.einsum("rm,rnm->rn", given.double()[token], of_row), m)
        assert is_right(back, torch.einsum("rn,rnm->rm", y.double(), of_row), n)
    of_group = torch.zeros(len(counts), n, m, dtype=torch.float64)
    of_group.index_add_(0, group, y.double()[:, :, None] * x.double()[token][:, None])
    assert not gradient[[count == 0 for count in counts]].any()
    assert not rows or is_right(gradient, of_group, max(counts))


@pytest.mark.parametrize("draw", [rounded, torch.randn], ids=["bf16", "fp32"])
@pytest.mark.parametrize(("counts", "n", "m"), [([40, 0, 3, 1], 150, 1100), ([70], 67, 4133)])
def test_the_same_bits_by_any_number_of_threads(restored_threads, counts, n, m, draw, seed):
    torch.manual_seed(seed)
    ends, group = groups(counts)
    x, y, weight = draw(len(group), m), draw(len(group), n), draw(len(counts), n, m)
    found = []
    for threads in (1, 3, 16):
        torch.set_num_threads(threads)
        linear, back = native.grouped_linear(x, weight, ends), native.grouped_linear(y, weight.mT, ends)
        found.append((linear, back, native.grouped_linear_gradients(y, x, ends)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("draw", [rounded, torch.randn], ids=["bf16", "fp32"])
def test_numbers_that_are_none_stay_where_they_are(draw, seed):
    """Not a number, and no other row's or column's: what lies behind a row's end is never multiplied."""
    torch.manual_seed(seed)
    x, weight = draw(3, 37), draw(1, 70, 37)
    x[1, 36], weight[0, 69, 36], ends = torch.nan, torch.inf, torch.tensor([3], dtype=torch.int32)
    y = native.grouped_linear(x, weight, ends)
    assert y[1].isnan().all() and y[:, 69].isinf().sum() == 2 and y[[0, 2], :69].isfinite().all()
    back = native.grouped_linear(draw(3, 70), weight.mT, ends)
    assert back[:, 36].isinf().all() and back[:, :36].isfinite().all()
    gradient = native.grouped_linear_gradients(draw(3, 70), x, ends)[0]
    assert gradient[:, 36].isnan().all() and gradient[:, :36].isfinite().all()


def test_a_row_that_does_not_exist_is_refused():
    weight, ends = rounded(1, 4, 8), torch.tensor([2], dtype=torch.int32)
    with pytest.raises(IndexError, match="row 5 of a table of 5 rows"):
        native.grouped_linear(rounded(5, 8), weight, ends, torch.tensor([0, 5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_rounded_as_torch_rounds(dtype):
    """One product with one is the number itself: of every size, halves that tie, the largest, and none."""
    bits = torch.cat([torch.randint(-(2**31), 2**31, (4000,)), torch.arange(-200, 200) * 2**15 + 2**30])
    numbers = bits.to(torch.int32).view(torch.float32)
    numbers = torch.cat([numbers, torch.tensor([torch.finfo(torch.float32).max, -torch.inf, torch.inf, torch.nan])])
    numbers = numbers[numbers.abs() >= torch.finfo(torch.float32).tiny].to(dtype)[:, None].contiguous()
    one, ends = torch.ones(1, 1, 1, dtype=torch.bfloat16), torch.tensor([len(numbers)], dtype=torch.int32)
    found = native.grouped_linear(numbers, one, ends, dtype=torch.bfloat16)
    assert torch.equal(found.view(torch.int16), numbers.bfloat16().view(torch.int16))


def test_which_matrices_they_multiply(without_units):
    assert native.is_best_for(rounded(2, 3, 4)) == native.is_best_for(rounded(2, 3, 4).mT) == without_units
    assert not native.is_best_for(rounded(2, 3, 4)[:, :, 1:])
    assert not native.is_best_for(torch.randn(3, 4)) and not native.is_best_for(rounded(0, 4))
    with paths.forced("torch"):
        assert not native.is_best_for(rounded(3, 4))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("by_mkl", [False, True])
def test_which_experts_they_multiply(monkeypatch, without_units, by_mkl, training):
    monkeypatch.setattr(native, "mkl_is_at_its_best", lambda: by_mkl)

    def is_best(weight, counts):
        return native.is_best_for_experts(weight, weight.mT, groups(counts)[0], training=training)

    weight, most = torch.randn(2, 3, 4), native._MOST_ROWS[training]
    assert is_best(rounded(2, 3, 4), [900, 900]) == without_units
    assert is_best(weight, [most, most]) == is_best(weight.mT, [0, 0]) == (not by_mkl)
    assert not is_best(weight, [1, 2 * most - 1]), "most rows are beside many others"
    assert not is_best(weight.double(), [1, 1])
    with paths.forced("torch"):
        assert not is_best(weight, [1, 1])


@pytest.mark.parametrize("by_mkl", [False, True])
@pytest.mark.parametrize("top_k", [1, 3])
def test_experts_of_fp32_are_the_same_either_way(monkeypatch, by_mkl, top_k, seed):
    """In one call of C++ or one after the other, with experts that nobody chooses; forward and every gradient."""
    torch.manual_seed(seed)
    sizes = {"model_dim": 36, "num_experts": 24, "expert_hidden": 20, "top_k": top_k}
    built = build(spec_from({"kind": "moe", "dtype": "float32", **sizes}))
    x = torch.randn(9, 36, requires_grad=True)
    found = []
    for taken in (by_mkl, True):
        monkeypatch.setattr(native, "mkl_is_at_its_best", lambda taken=taken: taken)
        paths.forget_taken()
        y = built(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, *built.parameters()])
        assert paths.taken()["grouped_matmul"] == ("loop" if taken else "native")
        found.append([y, *gradients])
    for one, other in zip(*found, strict=True):
        assert relative_rms(one, other.double()) < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        {"kind": "dense", "ffn_hidden": 72},
        {"kind": "moe", "num_experts": 6, "expert_hidden": 40, "top_k": 2, "shared_hidden": 24},
        {"kind": "memory_plus", "num_keys": 400, "heads": 2, "top_k": 4, "key_dim": 16},
    ],
    ids=lambda layer: layer["kind"],
)
def test_layers_count_the_same_flops_either_way(layer, without_units, seed):
    torch.manual_seed(seed)
    spec = spec_from({"model_dim": 48, "dtype": "bfloat16", **layer})
    built, x = build(spec), rounded(9, 48).requires_grad_()
    paths.forget_taken()
    counted = counted_flops(lambda: built(x))
    if layer["kind"] == "moe":
        assert paths.taken()["grouped_matmul"] == ("native" if without_units else "loop")
    if layer["kind"] != "memory_plus":
        assert counted == tuple(spec.cost(Step(9, mode=mode)).flops for mode in ("forward", "forward_backward"))


def test_as_operators(seed):
    torch.manual_seed(seed)
    x, weight, y = rounded(5, 12), rounded(7, 12), rounded(5, 7)
    for wide in (True, False):
        torch.library.opcheck(torch.ops.membench.linear, (x, weight, wide))
    torch.library.opcheck(torch.ops.membench.linear, (y, weight.t(), False))
    torch.library.opcheck(torch.ops.membench.linear_gradients, (y, x))


@pytest.mark.parametrize("project", [matmul.project, matmul.project_wide])
def test_projections(project, without_units, seed):
    torch.manual_seed(seed)
    x, weight = rounded(6, 40).requires_grad_(), rounded(33, 40).requires_grad_()
    x64, weight64 = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    y, expected = project(x, weight), x64 @ weight64.t()
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy.double())
    assert y.dtype == (torch.float32 if project is matmul.project_wide else torch.bfloat16)
    assert relative_rms(y, expected) < (1e-6 if project is matmul.project_wide else HALF_A_BIT)
    for leaf, leaf64 in ((x, x64), (weight, weight64)):
        assert leaf.grad is not None and leaf64.grad is not None
        assert relative_rms(leaf.grad, leaf64.grad) < HALF_A_BIT


@pytest.mark.parametrize("normalized", [True, False])
def test_scores(normalized, without_units, seed):
    torch.manual_seed(seed)
    queries, keys = torch.randn(5, 3, 2, 12), rounded(3, 2, 70, 12)
    expected = torch.einsum("bhsc,hsnc->hsbn", queries.double(), keys.double())
    if normalized:
        expected /= (keys.double().square().mean(dim=-1) + 1e-6).sqrt()[:, :, None]
    assert relative_rms(key_scores(queries, keys, normalized=normalized, eps=1e-6), expected) < 1e-6


@pytest.mark.parametrize(
    "x, weight, wide",
    [
        (torch.ones(5, 11), rounded(7, 12), False),
        (torch.ones(5, 2, 12), rounded(7, 12), False),
        (torch.ones(5, 12).half(), rounded(7, 12), False),
        (torch.ones(5, 7), rounded(7, 12).t(), True),
    ],
    ids=["width", "dimensions", "dtype", "wide by a transposed view"],
)
def test_operands_that_do_not_fit_are_refused(x, weight, wide):
    with pytest.raises(ValueError, match=r"should be|are torch\.bfloat16"):
        torch.ops.membench.linear(x, weight, wide)


def test_gradients_and_groups_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="number of rows, 4, not 5"):
        torch.ops.membench.linear_gradients(rounded(4, 7), rounded(5, 12))
    with pytest.raises(ValueError, match="number of rows, 3, not 4"):
        native.grouped_linear(rounded(3, 8), rounded(1, 4, 8), torch.tensor([4], dtype=torch.int32))
    with pytest.raises(ValueError, match="int32"):
        native.grouped_linear(rounded(3, 8), rounded(1, 4, 8), torch.tensor([3]))
    with pytest.raises(ValueError, match="token"):
        ends, token = torch.tensor([2], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
        native.grouped_linear(rounded(3, 8), rounded(1, 4, 8), ends, token)


def test_a_transposed_weight_is_projected_wide(without_units):
    x, weight = rounded(6, 40), rounded(40, 33).t()
    assert matmul.project_wide(x, weight).dtype == torch.float32
