"""Bags, dot products and row gradients against float64 sums, at awkward sizes."""

import pytest
import torch

from layers.kernels.weighted_bag import Lookups, find_runs, row_dots, row_gradient, weighted_bag
from layers.value_table import ValueTable

WIDTHS = [1, 7, 96, 100, 1000]
# 16 bits: one rounding of the weights and one of the result, both at their worst. fp32: a sum of 19200 terms.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
CASES = {
    "spread": lambda tokens, count: torch.randint(500, (tokens, count)),
    "one row": lambda tokens, count: torch.full((tokens, count), 499),
    "repeats": lambda tokens, count: torch.randint(3, (tokens, count)),
}


def relative_rms(actual, expected):
    return ((actual.double() - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (1, 64), (37, 12), (150, 128)])
@pytest.mark.parametrize("width", WIDTHS)
def test_against_float64(width, tokens, count, case, dtype, seed):
    torch.manual_seed(seed)
    # positive numbers, because a sum that cancels magnifies its rounding
    table, vectors = (torch.rand(size, width).add(0.1).to(dtype) for size in (500, tokens))
    weights = torch.rand(tokens, count).add(0.1)
    lookups = Lookups(CASES[case](tokens, count))

    gathered = table.double()[lookups.rows]
    bag = (weights.double()[:, :, None] * gathered).sum(1)
    assert relative_rms(weighted_bag(table, lookups.rows, weights), bag) < TOLERANCE[dtype]

    dots = (gathered * vectors.double()[:, None]).sum(-1)
    found = row_dots(table, lookups, vectors)
    assert found.dtype == torch.float32 and relative_rms(found, dots) < 2e-6

    dense = torch.zeros(500, width, dtype=torch.float64)
    dense.index_add_(
        0, lookups.rows.flatten(), (weights.double()[:, :, None] * vectors.double()[:, None]).flatten(0, 1)
    )
    gradient = row_gradient(lookups.runs, weights, vectors)
    assert torch.equal(lookups.runs.rows, lookups.rows.unique())
    assert relative_rms(gradient, dense[lookups.runs.rows]) < TOLERANCE[dtype]


def test_runs_keep_the_order_of_lookups():
    runs = find_runs(torch.tensor([5, 2, 5, 9, 2, 5]))
    assert runs.rows.tolist() == [2, 5, 9]
    assert runs.starts.tolist() == [0, 2, 5]
    assert runs.order.tolist() == [1, 4, 0, 2, 5, 3]


@pytest.mark.parametrize("operation", ["bag", "dots"])
def test_gradients_agree_with_autograd(operation, seed):
    torch.manual_seed(seed)
    table = ValueTable(40, 24)
    lookups = Lookups(torch.randint(40, (13, 6)))
    leaf = torch.randn(13, 6 if operation == "bag" else 24).requires_grad_()
    y = getattr(table, operation)(lookups, leaf)
    upstream = torch.randn_like(y)
    y.backward(upstream)

    values = table.weight.detach().double().requires_grad_()
    plain = leaf.detach().double().requires_grad_()
    rows = values[lookups.rows]
    expected = (plain[:, None] @ rows)[:, 0] if operation == "bag" else (rows @ plain[:, :, None])[:, :, 0]
    expected.backward(upstream.double())
    for actual, wanted in (
        (y.detach(), expected.detach()),
        (leaf.grad, plain.grad),
        (table.gradient.to_dense(40), values.grad),
    ):
        assert relative_rms(actual, wanted) < 1e-6


def test_an_expanded_gradient_is_as_good_as_any():
    table = ValueTable(8, 3)
    table.bag(Lookups(torch.tensor([[1, 2]])), torch.ones(1, 2)).sum().backward()
    assert table.gradient.rows.tolist() == [1, 2]
    assert bool((table.gradient.values == 1).all())


def test_a_gradient_nobody_wants_is_not_computed(monkeypatch):
    def fail(*_):
        raise AssertionError("computed")

    monkeypatch.setattr("layers.value_table.row_dots", fail)
    table = ValueTable(8, 3)
    table.bag(Lookups(torch.tensor([[1, 2]])), torch.ones(1, 2)).sum().backward()
    assert table.gradient is not None
