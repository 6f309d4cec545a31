"""Top-k retrieval: exact, ties included, whichever way a list is searched."""

import pytest
import torch
from retrieval_checks import assert_selection_exact, tokens_for

from layers import reference
from layers.kernels.key_scores import key_scores
from layers.kernels.top_k import best_pairs, long_top_k, ordered_top_k
from layers.memory import Memory
from layers.product_keys import EPS
from layers.spec import MemoryPlusSpec, MemorySpec


def stable_top_k(values, top_k):
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]


@pytest.mark.parametrize("distinct", [1, 2, 5, 1000, None])
@pytest.mark.parametrize(("length", "top_k"), [(1, 1), (7, 7), (33, 32), (64, 1), (512, 8), (768, 32), (1024, 32)])
def test_top_k_takes_the_lower_index_of_equal_values(length, top_k, distinct, seed):
    torch.manual_seed(seed)
    values = torch.randn(3, 5, length) if distinct is None else torch.randint(-distinct, distinct, (3, 5, length)) / 7
    wanted = stable_top_k(values, top_k)
    assert torch.equal(ordered_top_k(values, top_k), wanted)
    assert torch.equal(long_top_k(values, top_k), wanted)


def test_top_k_takes_the_lower_order_of_equal_values(seed):
    torch.manual_seed(seed)
    values = torch.randint(0, 4, (50, 60)).double()
    order = torch.rand(50, 60).argsort(dim=-1)
    by_order = order.argsort(dim=-1)
    wanted = by_order.gather(1, stable_top_k(values.gather(1, by_order), 9))
    assert torch.equal(ordered_top_k(values, 9, order), wanted)


@pytest.mark.parametrize("top_k", [1, 2, 5, 8, 32])
@pytest.mark.parametrize("levels", [1, 2, 4, 20, None])
def test_best_pairs_are_those_of_all_pairs(top_k, levels, seed):
    torch.manual_seed(seed)
    shape = (3, 2, 11, 40)
    scores = torch.randn(shape) if levels is None else torch.randint(-levels, levels + 1, shape) / 3
    pairs = best_pairs(scores.float(), top_k)
    rows, _ = reference.top_rows(*scores.float().double().unbind(1), top_k)
    assert torch.equal(pairs[:, 0] * 40 + pairs[:, 1], rows)


def test_sums_that_tie_only_when_rounded(seed):
    """In fp32 1 + 2^-30 and 1 + 2^-31 are one number, and the second has the lower row."""
    first = torch.tensor([2.0**-31, 2.0**-30, -1.0])
    second = torch.tensor([1.0, 0.0, -1.0])
    pairs = best_pairs(torch.stack([first, second])[None, :, None], 1)
    assert pairs.flatten().tolist() == [1, 0]


@pytest.mark.parametrize("key_range", [1, 2, 3])
@pytest.mark.parametrize("spec", [MemorySpec, MemoryPlusSpec])
def test_selection_with_many_equal_scores(spec, key_range, seed):
    torch.manual_seed(seed)
    layer = Memory(spec(model_dim=8, num_keys=24**2, heads=3, top_k=7, key_dim=6, dtype="float32"))
    with torch.no_grad():
        layer.keys.copy_(torch.randint(-key_range, key_range + 1, layer.keys.shape))
        layer.query.copy_(torch.randint(-1, 2, layer.query.shape))
    assert_selection_exact(layer, torch.randint(-1, 2, (40, 8)).float())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_scores_are_fp32_whatever_the_dtype(dtype, seed):
    torch.manual_seed(seed)
    layer = Memory(MemoryPlusSpec(model_dim=96, num_keys=64**2, heads=2, top_k=32, key_dim=64, dtype=dtype))
    x = tokens_for(layer.spec, 64, getattr(torch, dtype))
    scores = layer.half_scores(x)
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 0.9 * scores.numel()  # 16-bit rounding would leave some thousands
    assert_selection_exact(layer, x)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("wanted", ["queries", "keys"])
def test_only_the_gradient_asked_for(wanted, normalized):
    queries, keys = torch.randn(5, 2, 2, 3), torch.randn(2, 2, 7, 3)
    {"queries": queries, "keys": keys}[wanted].requires_grad_()
    key_scores(queries, keys, normalized=normalized, eps=EPS).sum().backward()
    assert (queries.grad is None) == (wanted == "keys") and (keys.grad is None) == (wanted == "queries")
