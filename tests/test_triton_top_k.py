"""Product-key top-k in Triton against all n² sums in float64: ties, awkward sizes, infinities, poisoned outputs."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
from against_reference import poisoned_memory

from layers.checking import reference
from layers.kernels import paths
from layers.kernels import top_k as operator
from layers.kernels.torch import top_k as plain_top_k
from layers.kernels.triton import top_k as triton_top_k

LEVELS = [0, 1, 4, None]  # distinct scores about zero; None: all differ


@pytest.fixture(autouse=True)
def _seeded(seed):
    torch.manual_seed(seed)


def scores_of(shape, levels):
    if levels is None:
        return torch.randn(shape, device=DEVICE)
    return torch.randint(-levels, levels + 1, shape, device=DEVICE) / 3


def selected(scores, top_k):
    """Rows (B, H, k) and weights, from memory in which nothing passes for a zero."""
    with poisoned_memory():
        halves, weights = triton_top_k.product_key_top_k(scores, top_k)
    assert halves.dtype == torch.int32 and weights.dtype == torch.float32
    return halves[0].long() * scores.shape[-1] + halves[1], weights


def assert_right(scores, top_k):
    rows, weights = selected(scores, top_k)
    first, second = scores.double().transpose(0, 2).unbind(1)  # (B, 2, H, n)
    wanted, sums = reference.top_rows(first, second, top_k)
    assert torch.equal(rows, wanted)
    # The sum of two fp32 scores is rounded to fp32 before the softmax.
    torch.testing.assert_close(weights.double(), torch.softmax(sums, dim=-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(
    ("sub_keys", "top_k"),
    [(1, 1), (2, 1), (2, 2), (3, 2), (7, 7), (8, 1), (33, 32), (96, 3), (100, 5), (128, 16), (300, 17)],
)
def test_against_all_sums(sub_keys, top_k, levels):
    assert_right(scores_of((2, 2, 2 if sub_keys < 33 else 1, sub_keys), levels), top_k)


@pytest.mark.parametrize("levels", [1, None])
def test_a_layer_of_a_million_keys(levels):
    assert_right(scores_of((1, 2, 1, 1024), levels), 32)


def test_the_most_rows_of_a_head():
    assert_right(scores_of((1, 2, 1, 128), 20), 128)


@pytest.mark.parametrize("levels", [1, None])
@pytest.mark.parametrize(("sub_keys", "top_k"), [(300, 3), (130, 8)])
def test_lists_of_several_tiles(sub_keys, top_k, levels, monkeypatch):
    monkeypatch.setattr(triton_top_k, "_SCORES_A_TILE", 32)
    assert_right(scores_of((1, 2, 2, sub_keys), levels), top_k)


@pytest.mark.parametrize(("sub_keys", "top_k"), [(64, 1), (70, 3), (130, 4)])
def test_neighbourhoods_whose_maxima_are_equal(sub_keys, top_k):
    for levels in (0, 1, 1, 2, 2, 5):
        assert_right(scores_of((1, 2, 1, sub_keys), levels), top_k)


def test_any_top_k():
    scores = scores_of((1, 2, 1, 17), 6)
    for top_k in range(1, 18):
        assert_right(scores, top_k)


def test_zeros_of_either_sign_are_equal():
    scores = torch.randint(0, 2, (2, 2, 2, 20), device=DEVICE) * -0.0
    assert_right(scores * torch.ones_like(scores), 5)
    assert_right(torch.where(torch.rand(2, 2, 2, 20, device=DEVICE) < 0.5, -0.0, 0.0), 5)


def test_sums_that_tie_only_when_rounded():
    """In fp32 1 + 2^-30 and 1 + 2^-31 are one number, and the second has the lower row."""
    first = torch.tensor([2.0**-31, 2.0**-30, -1.0])
    second = torch.tensor([1.0, 0.0, -1.0])
    rows, _ = selected(torch.stack([first, second])[None, :, None].to(DEVICE), 1)
    assert rows.flatten().tolist() == [1 * 3 + 0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("infinity", [float("inf"), float("-inf")])
@pytest.mark.parametrize("count", [1, 6, 20])
def test_infinities(infinity, count):
    """Sums with one are all equal, so the pruned candidates decide: as on the path of torch's own calls."""
    scores = torch.randn(2, 2, 2, 20, device=DEVICE)
    scores[..., torch.randperm(20, device=DEVICE)[:count]] = infinity
    rows, weights = selected(scores, 6)
    halves, wanted = plain_top_k.product_key_top_k(scores, 6)
    assert torch.equal(rows, halves[0].long() * 20 + halves[1])
    torch.testing.assert_close(weights, wanted, rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_leaves_rows_that_exist():
    scores = torch.full((1, 2, 1, 9), float("nan"), device=DEVICE)
    rows, _ = selected(scores, 4)
    assert len(rows.unique()) == 4 and bool(((rows >= 0) & (rows < 81)).all())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bits", [0x7FC00000, -0x400000])
def test_one_nan_of_either_sign_shows(bits):
    scores = torch.randn(1, 2, 2, 9, device=DEVICE)
    scores[0, 1, 0, 3] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    rows, weights = selected(scores, 4)
    assert weights[0].isnan().all() and not weights[1].isnan().any()
    assert len(rows[0].unique()) == 4


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("path", ["triton", "torch", "native"])
@pytest.mark.parametrize("place", [0, 77, 127])
def test_one_nan_shows_among_neighbours(place, path):
    """Long lists are cut into neighbourhoods, whose maxima must not pass over it."""
    if path == "native" and DEVICE == "cuda":
        pytest.skip("the C++ path is a CPU's")
    scores = torch.randn(1, 2, 1, 128, device=DEVICE)
    scores[0, 0, 0, place] = float("nan")
    with paths.forced(path):
        assert operator.product_key_top_k(scores, 8)[1].isnan().all()


@pytest.mark.parametrize(("sub_keys", "top_k"), [(1, 1), (33, 32), (100, 5), (300, 3)])
@pytest.mark.parametrize("levels", [1, None])
def test_scores_that_are_scaled_as_they_are_read(levels, sub_keys, top_k, monkeypatch):
    """The same bits as of scores that were scaled before, forward and backward; as on the path of torch's own calls."""
    monkeypatch.setattr(triton_top_k, "_SCORES_A_TILE", 64)
    scores, scales = scores_of((2, 2, 3, sub_keys), levels), torch.rand(2, 2, 1, sub_keys, device=DEVICE)
    if levels:
        scales = (1 + 3 * scales).round()
    found, upstream = [], torch.randn(3, 2, top_k, device=DEVICE)
    for path in ("triton", "torch"):
        for given in ((scores.requires_grad_(), top_k, scales), ((scores.detach() * scales).requires_grad_(), top_k)):
            with paths.forced(path):
                halves, weights = operator.product_key_top_k(*given)
                found.append((halves, weights.detach(), torch.autograd.grad(weights, given[0], upstream)[0]))
    for scaled, before in (found[:2], found[2:]):
        assert torch.equal(scaled[0], before[0]) and torch.equal(scaled[1], before[1])
        torch.testing.assert_close(scaled[2], before[2] * scales, rtol=1e-6, atol=1e-7)
    assert torch.equal(found[0][0], found[2][0])


def test_no_tokens():
    rows, weights = selected(torch.empty(2, 2, 0, 30, device=DEVICE), 3)
    assert rows.shape == weights.shape == (0, 2, 3)


def test_the_same_bits_twice():
    scores = scores_of((2, 2, 2, 60), None)
    for one, two in zip(selected(scores, 8), selected(scores, 8), strict=True):
        assert torch.equal(one, two)


def test_scores_that_are_a_view():
    assert_right(scores_of((2, 2, 40, 3), 3).transpose(2, 3), 4)


def test_as_an_operator_with_its_gradient():
    scores = scores_of((2, 2, 3, 30), 5).requires_grad_()
    upstream = torch.randn(3, 2, 4, device=DEVICE)
    gradients = []
    for path in ("triton", "torch"):
        with paths.forced(path):
            _, weights = operator.product_key_top_k(scores, 4)
            gradients.append(torch.autograd.grad(weights, scores, upstream)[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaled, dtype", [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_gradients_of_scores_that_are_part_of_several_sums(top_k, scaled, dtype):
    of_sums = torch.randn(5, 2, top_k, device=DEVICE)
    halves = torch.randint(4, (2, 5, 2, top_k), dtype=torch.int32, device=DEVICE)
    scales = torch.rand(2, 2, 1, 4, device=DEVICE) if scaled else None
    with poisoned_memory():
        found = [triton_top_k.scores_gradient(halves, of_sums, 4, scales, dtype) for _ in range(2)]
    expected = plain_top_k.scores_gradient(halves, of_sums.double(), 4, scales, torch.float64)
    assert found[0].dtype == dtype
    rounding = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps  # the interpreter cuts off
    torch.testing.assert_close(found[0].double(), expected, rtol=rounding, atol=1e-6)
    assert torch.equal(*found)


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.top_k import product_key_top_k, scores_gradient
for tokens in (16, 17):
    product_key_top_k(torch.randn(2, 2, tokens, 256), 8)
product_key_top_k(torch.randn(2, 2, 3, 7), 1)
for tokens in (16, 17):
    halves, of_sums = torch.zeros(2, tokens, 2, 8, dtype=torch.int32), torch.zeros(tokens, 2, 8)
    scores_gradient(halves, of_sums, 256, None, torch.float32)
""")
    assert launched[0] == launched[1] != launched[2]
    assert launched[3] == launched[4]
