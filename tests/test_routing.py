"""Drawn routings: distinct, spread and skewed as stated."""

import math

import pytest
import torch

from layers.routing import _scatter, busiest_rank, draw_experts, draw_lookups
from layers.spec.expectation import expected_unique


def distinct(indices):
    return bool((indices.sort(dim=-1).values.diff(dim=-1) > 0).all())


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.5, 4.0])
@pytest.mark.parametrize(
    ("num_rows", "top_k"), [(1, 1), (4, 2), (9, 9), (100, 10), (1025, 32), (4096**2, 32), (2**40, 8)]
)
def test_rows_of_a_head_are_distinct(num_rows, top_k, exponent, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = draw_lookups(kind, num_rows, 3, top_k, 50, exponent=exponent, generator=generator)
    assert rows.shape == (50, 3, top_k) and rows.dtype == torch.int64
    assert rows.min() >= 0 and rows.max() < num_rows
    assert distinct(rows)


@pytest.mark.parametrize(("kind", "exponent"), [("uniform", 0.0), ("zipf", 0.0), ("zipf", 0.5), ("zipf", 1.0)])
def test_unique_rows_are_as_many_as_a_plan_expects(kind, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = draw_lookups(kind, 512**2, 4, 4, 4000, exponent=exponent, generator=generator)
    assert len(rows.unique()) == pytest.approx(expected_unique(512**2, 16000, 4, exponent), rel=0.05)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_popularity_follows_zipf(exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = draw_lookups("zipf", 10_000, 1, 1, 400_000, exponent=exponent, generator=generator)
    counts = torch.bincount(rows.flatten(), minlength=10_000).sort(descending=True).values
    mass = sum(i**-exponent for i in range(1, 10_001))
    for rank in (1, 2, 10):
        if exponent > 0.5:
            assert counts[rank - 1].item() == pytest.approx(400_000 * rank**-exponent / mass, rel=0.15)
    top = sum(i**-exponent for i in range(1, 1001)) / mass
    assert counts[:1000].sum().item() == pytest.approx(400_000 * top, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 100, 1024, 9973])
def test_scattering_is_a_bijection(count):
    assert torch.equal(_scatter(torch.arange(count), count).sort().values, torch.arange(count))


def test_every_pair_of_rows_is_equally_likely(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = draw_lookups("uniform", 4, 1, 2, 60_000, generator=generator)[:, 0].sort(dim=-1).values
    counts = torch.bincount(rows[:, 0] * 4 + rows[:, 1])
    assert counts[counts > 0].tolist() == pytest.approx([10_000] * 6, abs=6 * math.sqrt(10_000))


def test_more_rows_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="5 distinct rows"):
        draw_lookups("uniform", 4, 1, 5, 1)


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_experts_of_a_token_are_distinct(kind, seed):
    experts = draw_experts(kind, 16, 8, 200, generator=torch.Generator().manual_seed(seed))
    assert experts.shape == (200, 8) and experts.dtype == torch.int64
    assert distinct(experts) and experts.max() < 16


def test_first_choices_follow_zipf(seed):
    experts = draw_experts("zipf", 50, 1, 100_000, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(experts.flatten(), minlength=50).sort(descending=True).values
    mass = sum(1 / i for i in range(1, 51))
    assert counts[0].item() == pytest.approx(100_000 / mass, rel=0.05)


@pytest.mark.parametrize(("num_experts", "ranks"), [(8, 4), (7, 3), (3, 5), (6, 1)])
def test_busiest_rank(num_experts, ranks, seed):
    torch.manual_seed(seed)
    experts = torch.randint(num_experts, (40, 2))
    held = -(-num_experts // ranks)
    bounds = [r * num_experts // ranks for r in range(ranks + 1)]
    loads = [sum(int((experts == e).sum()) for e in range(*bounds[r : r + 2])) for r in range(ranks)]
    counts = busiest_rank(experts, num_experts, ranks)
    assert counts.shape == (held,) and counts.sum() == max(loads)
