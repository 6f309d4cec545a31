"""Lookups grouped by row: by C++, by torch's sort, and padded for a device whose host must not wait."""

import pytest
import torch

from layers.kernels.lookups import Lookups, Runs, find_runs, index_dtype
from layers.kernels.torch.lookups import _padded
from layers.kernels.torch.lookups import find_runs as plain_find_runs

# what a radix sort of 11-bit digits and one of whole bytes may get wrong lies about powers of two
POWERS = [1, 2, 3, 127, 128, 129, 2047, 2048, 2049, 2**15, 2**22, 2**22 + 1, 2**31, 2**32, 2**32 + 1, 2**40]
NUM_ROWS = [*POWERS, 3107, 3108, 3109]  # four for each of 777 lookups are counted, more are sorted


def runs_by_definition(rows):
    """(rows, starts, order): each distinct row's lookups, in the order they came."""
    lookups = {}
    for place, row in enumerate(rows.tolist()):
        lookups.setdefault(row, []).append(place)
    order = [place for row in sorted(lookups) for place in lookups[row]]
    starts = [0]
    for row in sorted(lookups):
        starts.append(starts[-1] + len(lookups[row]))
    return sorted(lookups), starts, order


def assert_runs(runs, rows):
    distinct, starts, order = runs_by_definition(rows)
    assert runs.rows.tolist() == distinct and runs.rows.dtype == rows.dtype
    assert runs.starts.tolist() == starts and runs.starts.dtype == torch.int32
    assert runs.order.tolist() == order and runs.order.dtype == torch.int32


@pytest.mark.parametrize("spread", ["ends", "anywhere", "few"])
@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_runs_of_any_number_of_rows(num_rows, spread, path, seed):
    torch.manual_seed(seed)
    rows = torch.randint(num_rows, (777,), dtype=index_dtype(num_rows))
    if spread == "few":
        rows = rows[torch.randint(5, (777,))]
    if spread == "ends":
        rows = torch.where(rows % 2 == 0, 0, num_rows - 1).to(rows.dtype)
    assert_runs(find_runs(rows, num_rows), rows)


@pytest.mark.parametrize("lookups", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_few_lookups(lookups, dtype, path):
    rows = torch.full((lookups,), 6, dtype=dtype)
    assert_runs(find_runs(rows, 7), rows)


@pytest.mark.parametrize("num_rows", [300, 2**16, 2**16 + 1])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_that_are_all_read(num_rows, dtype, path, seed):
    torch.manual_seed(seed)
    rows = torch.randperm(num_rows).to(dtype)
    runs = find_runs(rows, num_rows)
    assert torch.equal(runs.rows, torch.arange(num_rows, dtype=dtype))
    assert torch.equal(runs.starts, torch.arange(num_rows + 1, dtype=torch.int32))
    assert torch.equal(runs.order, rows.argsort().int())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_behind_the_last_that_is_read(dtype, path):
    rows = torch.tensor([1, 0], dtype=dtype)
    assert_runs(find_runs(rows, 8), rows)


def test_rows_need_not_lie_side_by_side(path, seed):
    torch.manual_seed(seed)
    rows = torch.randint(50, (9, 12)).t()[::2].flatten()[::3]
    assert_runs(find_runs(rows, 50), rows)


@pytest.mark.parametrize("lookups", [0, 1, 2, 100])
@pytest.mark.parametrize("distinct", [1, 3, 10**6])
def test_padded_runs_of_a_device_that_the_host_does_not_wait_for(distinct, lookups, seed):
    torch.manual_seed(seed)
    given = torch.randint(distinct, (lookups,), dtype=torch.int32)
    ascending, order = given.sort(stable=True)
    begins = torch.ones(lookups, dtype=torch.bool)
    begins[1:] = ascending[1:] != ascending[:-1]
    wanted, wanted_starts, wanted_order = plain_find_runs(given, distinct)
    rows, starts = _padded(ascending, begins)
    count = len(wanted)
    assert rows.shape == (lookups,) and starts.shape == (lookups + 1,) and starts.dtype == torch.int32
    assert torch.equal(rows[:count], wanted) and not rows[count:].any()
    assert torch.equal(starts[: count + 1], wanted_starts)
    assert bool((starts[count:] == lookups).all())  # empty runs, all at the end
    assert bool((starts.diff() >= 0).all())
    assert torch.equal(order.int(), wanted_order)


def test_exact_trims_what_a_device_padded():
    """The trimming of a GPU's runs, without one: only where the tensors say that they lie is not the CPU."""
    rows, starts = torch.tensor([3, 8, 0, 0]), torch.tensor([0, 1, 4, 4, 4], dtype=torch.int32)

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    trimmed = Runs(rows.as_subclass(Elsewhere), starts, torch.arange(4, dtype=torch.int32)).exact()
    assert trimmed.rows.tolist() == [3, 8] and trimmed.starts.tolist() == [0, 1, 4]
    on_cpu = Runs(rows, starts, torch.arange(4, dtype=torch.int32))
    assert on_cpu.exact() is on_cpu


def test_lookups_are_sorted_once_and_only_when_asked(path):
    lookups = Lookups(torch.tensor([[5, 2, 5], [9, 2, 5]]), 10)
    assert lookups.rows.dtype == torch.int32 and "runs" not in vars(lookups)
    assert lookups.runs is lookups.runs
    assert lookups.runs.rows.tolist() == [2, 5, 9] and lookups.runs.order.tolist() == [1, 4, 0, 2, 5, 3]


def test_row_numbers_take_32_bits_where_they_fit():
    assert index_dtype(2**31 - 1) == torch.int32 and index_dtype(2**31) == torch.int64
