"""Products of few rows in C++: awkward sizes against float64, and where they are used."""

import pytest
import torch
from against_reference import error_of_sums, poisoned_memory
from torch.utils.flop_counter import FlopCounterMode

from layers.checking.verification import relative_rms
from layers.kernels import matmul, paths
from layers.kernels.native import few_rows

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

SIZES = [(1, 1), (5, 31), (64, 32), (67, 33), (130, 1100), (3, 2100), (100, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def operands(rows, n, m, dtype):
    return torch.randn(rows, m).to(dtype), torch.randn(n, m).to(dtype)


@pytest.mark.parametrize("n, m", SIZES)
@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_products(dtype, rows, n, m, seed):
    torch.manual_seed(seed)
    x, weight = operands(rows, n, m, dtype)
    expected = x.double() @ weight.double().t()
    with poisoned_memory():
        wide, narrow = (few_rows.linear(x, weight, each) for each in (torch.float32, dtype))
    assert error_of_sums(wide, expected, m) < 1e-6 and wide.dtype == torch.float32
    assert torch.equal(narrow, wide.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_into_rows_of_another_tensor(dtype, seed):
    torch.manual_seed(seed)
    x, weight = operands(3, 67, 33, dtype)
    results = torch.zeros(9, 67, dtype=dtype)
    few_rows.linear(x, weight, dtype, results[2:5])
    assert torch.equal(results[2:5], few_rows.linear(x, weight, dtype))
    assert not results[:2].any() and not results[5:].any()
    for wrong in (results[:2], results.float() if dtype != torch.float32 else results.double(), results[::3]):
        with pytest.raises(ValueError, match="out should be"):
            few_rows.linear(x, weight, dtype, wrong[:, :66] if len(wrong) == 3 else wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_by_any_number_of_threads(dtype, restored_threads, seed):
    torch.manual_seed(seed)
    x, weight = operands(3, 333, 2100, dtype)
    found = []
    for threads in (1, 3, 64):
        torch.set_num_threads(threads)
        found.append(few_rows.linear(x, weight, torch.float32))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_parts_of_other_tensors(seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(4, 100)[:3, 7:40], torch.randn(33, 50).t()
    found = few_rows.linear(x, weight, torch.float32)
    assert error_of_sums(found, x.double() @ weight.double().t(), 33) < 1e-6


@pytest.mark.parametrize(
    "x, weight, dtype",
    [
        (torch.ones(2, 3), torch.ones(4, 5), torch.float32),
        (torch.ones(3), torch.ones(4, 3), torch.float32),
        (torch.ones(2, 3), torch.ones(4, 3, dtype=torch.bfloat16), torch.float32),
        (torch.ones(2, 3), torch.ones(4, 3), torch.bfloat16),
        (torch.ones(2, 3).double(), torch.ones(4, 3).double(), torch.float64),
    ],
)
def test_operands_that_do_not_fit_are_refused(x, weight, dtype):
    with pytest.raises(ValueError, match="should be"):
        few_rows.linear(x, weight, dtype)


def rows_served(weight):
    columns, dtype = weight.shape[1], weight.dtype
    return [rows for rows in range(20) if few_rows.is_best_for(torch.ones(rows, columns, dtype=dtype), weight)]


def test_where_they_are_used(monkeypatch):
    monkeypatch.setattr(few_rows.grouped_matmul, "_lacks_bf16_units", lambda: True)
    wide, large = torch.randn(64, 48), torch.randn(256, 256)
    by_mkl, many = [*range(3, 9)], [*range(1, 17)]
    for intel, of_wide, of_large, of_bf16 in ((True, by_mkl, by_mkl, [1, 2]), (False, [], many, many)):
        monkeypatch.setattr(few_rows, "mkl_is_at_its_best", lambda intel=intel: intel)
        assert rows_served(wide) == of_wide and rows_served(large) == of_large
        assert rows_served(large.bfloat16()) == of_bf16 and rows_served(large.half()) == []
    monkeypatch.setattr(few_rows, "mkl_is_at_its_best", lambda: True)
    assert not few_rows.is_best_for(torch.ones(4, 64), wide.t())
    with paths.forced("torch"):
        assert not few_rows.is_best_for(torch.ones(4, 48), wide)


@pytest.mark.parametrize("dtype, rows", [(torch.float32, 4), (torch.bfloat16, 1)])
def test_projections_by_it(dtype, rows, monkeypatch, seed):
    monkeypatch.setattr(few_rows.grouped_matmul, "_lacks_bf16_units", lambda: True)
    monkeypatch.setattr(few_rows, "mkl_is_at_its_best", lambda: True)
    torch.manual_seed(seed)
    x, weight = operands(rows, 67, 33, dtype)
    called = []
    monkeypatch.setattr(matmul, "_few_rows_linear", _noted(matmul._few_rows_linear, called))
    expected = x.double() @ weight.double().t()
    half_a_bit = torch.finfo(dtype).eps / 2
    found = {False: matmul.project(x, weight)}
    weight.requires_grad_()
    found[True] = matmul.project(x, weight)
    assert [len(each) for each in called] == [rows, rows] and found[True].requires_grad
    assert all(relative_rms(each, expected) < half_a_bit * 4 for each in found.values())
    with FlopCounterMode(display=False) as counter:
        matmul.project(x, weight)
    assert counter.get_total_flops() == 2 * rows * 67 * 33
    dy = torch.randn(rows, 67).to(dtype)
    (gradient,) = torch.autograd.grad(found[True], weight, dy)
    assert relative_rms(gradient, dy.double().t() @ x.double()) < half_a_bit * 4


def _noted(function, called):
    def call(x, *others):
        called.append(x)
        return function(x, *others)

    return call
