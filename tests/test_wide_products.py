"""fp32 products on matrix units for 16-bit numbers: as exact as in fp32. A CPU stands in for the units."""

import pytest
import torch

from layers.kernels import paths, wide_products
from layers.kernels.key_scores import key_scores, scores_with_scales
from layers.kernels.retrieval import retrieve

EPS = 1e-6


def operands(tokens=40, sub_keys=67, columns=96):
    return torch.randn(tokens, 3, 2, columns), torch.randn(3, 2, sub_keys, columns).bfloat16()


def largest_error(found, expected):
    """Over the root mean square of what is expected."""
    return float((found.double() - expected).abs().max() / expected.square().mean().sqrt())


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("normalized", [False, True])
def test_fp32_queries_lose_nothing(normalized, scale, matrix_units, seed):
    torch.manual_seed(seed)
    queries, keys = operands()
    queries *= scale
    found = key_scores(queries, keys, normalized=normalized, eps=EPS)
    exact = torch.einsum("bhsc,hsnc->hsbn", queries.double(), keys.double())
    if normalized:
        exact *= torch.rsqrt(keys.double().square().mean(dim=-1) + EPS)[:, :, None]
    assert matrix_units == [(6, 40, 3 * 96)]
    assert largest_error(found, exact) < 4e-6
    rounded = torch.einsum("bhsc,hsnc->hsbn", queries.bfloat16().double(), keys.double())
    assert normalized or largest_error(rounded, exact) > 1e-3  # what the second and third part are for


def test_bf16_queries_are_multiplied_as_they_are(matrix_units, seed):
    torch.manual_seed(seed)
    queries, keys = operands()
    narrow = queries.bfloat16()
    found = key_scores(narrow, keys, normalized=False, eps=EPS)
    assert matrix_units == [(6, 40, 96)] and found.dtype == torch.float32
    assert torch.equal(found, narrow.permute(1, 2, 0, 3).float() @ keys.float().mT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_what_is_no_finite_number_shows(value, matrix_units):
    queries, keys = torch.ones(9, 1, 2, 8), torch.ones(1, 2, 5, 8).bfloat16()
    queries[2, 0, 1, 3] = value
    scores, _ = scores_with_scales(queries, keys, normalized=False, eps=EPS)
    expected = queries.permute(1, 2, 0, 3).bfloat16().float() @ keys.float().mT
    torch.testing.assert_close(scores, expected, equal_nan=True)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_queries_like_keys_have_gradients_like_them(dtype, sparse, path, seed):
    torch.manual_seed(seed)
    queries, keys = (each.to(dtype).requires_grad_() for each in operands())
    wide = queries.detach().float().requires_grad_()
    upstream = torch.randn(40, 3, 4)
    found = []
    for given in (queries, wide):
        halves, weights = retrieve(given, keys, 4, normalized=False, eps=EPS, sparse_backward=sparse)
        found.append((halves, weights, *torch.autograd.grad(weights, (given, keys), upstream)))
    assert found[0][2].dtype == dtype and found[1][2].dtype == torch.float32
    assert torch.equal(found[0][2], found[1][2].to(dtype))
    assert all(torch.equal(found[0][each], found[1][each]) for each in (0, 1, 3))


def test_where_they_are_used():
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    keys = [torch.empty(2, 5, 8, device="meta", dtype=dtype) for dtype in dtypes]
    assert not any(wide_products.can_multiply(each) for each in keys)
    with paths.meta_as_gpu():
        assert [wide_products.can_multiply(each) for each in keys] == [True, False, False]
        found = wide_products.wide_product(torch.empty(2, 3, 8, device="meta", dtype=torch.bfloat16), keys[0])
    assert found.dtype == torch.float32 and found.shape == (2, 3, 5)
