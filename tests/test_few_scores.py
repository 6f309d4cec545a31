"""Scores of few queries in C++: awkward sizes against float64, and where they are used."""

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.key_scores import scores_with_scales
from layers.kernels.native import few_scores

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

EPS = 1e-6
SIZES = [(1, 1), (5, 31), (33, 16), (67, 33), (130, 192), (3, 1100)]  # sub-keys a half, columns of a half
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def operands(tokens, sub_keys, columns, dtype, heads=3):
    return torch.randn(tokens, heads, 2, columns), torch.randn(heads, 2, sub_keys, columns).to(dtype)


def in_float64(queries, keys, normalized):
    scores = torch.einsum("bhsc,hsnc->hsbn", queries.double(), keys.double())
    scale = torch.rsqrt(keys.double().square().mean(dim=-1) + EPS)[:, :, None]
    return (scores * scale, scale) if normalized else (scores, torch.empty(0))


@pytest.mark.parametrize("sub_keys, columns", SIZES)
@pytest.mark.parametrize("tokens", [1, 2, 5])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores(dtype, normalized, tokens, sub_keys, columns, seed):
    torch.manual_seed(seed)
    queries, keys = operands(tokens, sub_keys, columns, dtype)
    with poisoned_memory():
        found = few_scores.key_scores(queries, keys, normalized=normalized, eps=EPS)
    scores, scale = in_float64(queries, keys, normalized)
    assert [each.shape for each in found] == [scores.shape, scale.shape]
    assert {each.dtype for each in found} == {torch.float32}
    assert error_of_sums(found[0], scores, columns) < 1e-6
    assert not normalized or relative_rms(found[1], scale) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_by_any_number_of_threads(dtype, restored_threads, seed):
    torch.manual_seed(seed)
    queries, keys = operands(3, 333, 210, dtype)
    found = []
    for threads in (1, 3, 64):
        torch.set_num_threads(threads)
        found.append(few_scores.key_scores(queries, keys, normalized=True, eps=EPS))
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_in_its_score(dtype):
    queries, keys = torch.ones(1, 1, 2, 40), torch.ones(1, 2, 9, 40, dtype=dtype)
    keys[0, 1, 4, 39] = float("nan")
    scores, _ = few_scores.key_scores(queries, keys, normalized=True, eps=EPS)
    assert scores.isnan().nonzero().tolist() == [[0, 1, 0, 4]]


@pytest.mark.parametrize(
    "queries, keys",
    [
        (torch.ones(2, 3, 2, 8), torch.ones(3, 2, 5, 9)),
        (torch.ones(2, 4, 2, 8), torch.ones(3, 2, 5, 8)),
        (torch.ones(2, 3, 1, 8), torch.ones(3, 1, 5, 8)),
        (torch.ones(2, 3, 2, 8).bfloat16(), torch.ones(3, 2, 5, 8).bfloat16()),
        (torch.ones(2, 3, 2, 8), torch.ones(3, 2, 5, 8).double()),
    ],
)
def test_operands_that_do_not_fit_are_refused(queries, keys):
    with pytest.raises(ValueError, match=r"should be|are scored"):
        few_scores.key_scores(queries, keys, normalized=False, eps=EPS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_they_are_used(dtype, monkeypatch):
    seen = []
    compute = few_scores.key_scores
    monkeypatch.setattr(few_scores, "key_scores", lambda q, k, **others: seen.append(len(q)) or compute(q, k, **others))
    for tokens in (0, 1, 4, 5, 60):
        queries, keys = operands(tokens, 40, 24, dtype)
        scores_with_scales(queries, keys, normalized=True, eps=EPS)
        scores_with_scales(queries, keys.mT.contiguous().mT, normalized=False, eps=EPS)  # not as it is read
    assert seen == [1, 4]
    with paths.forced("torch"):
        scores_with_scales(*operands(1, 40, 24, dtype), normalized=True, eps=EPS)
    assert seen == [1, 4]
