"""Bags in C++ whatever the number of threads, and the reader that random rows are measured with."""

import pytest
import row_reference
import torch
from against_reference import poisoned_memory

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.native.read_rows import read_rows
from layers.kernels.row_passes import weighted_bag

pytestmark = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_bits_by_any_number_of_threads(dtype, restored_threads, seed):
    torch.manual_seed(seed)
    table = (torch.rand(20, 1500) + 0.1).to(dtype)
    for bags, lookups in ((1, 603), (2, 61), (300, 7)):
        rows, weights = torch.randint(20, (bags, lookups)), torch.rand(bags, lookups)
        found = []
        for threads in (1, 3, 64):
            torch.set_num_threads(threads)
            with poisoned_memory():
                found.append(weighted_bag(table, rows, weights))
        # one rounding of the result, of fp32 some hundred of the sum
        tolerance = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        assert relative_rms(found[0], row_reference.bag(table, rows, weights)) < tolerance
        assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_table_that_is_part_of_another(seed):
    torch.manual_seed(seed)
    wide, rows, weights = torch.randn(9, 40), torch.randint(9, (5, 3)), torch.rand(5, 3)
    table = wide[:, 3:20]
    assert relative_rms(weighted_bag(table, rows, weights), row_reference.bag(table, rows, weights)) < 1e-5


@pytest.mark.parametrize("count", [0, 1, 3, 4, 1029])
@pytest.mark.parametrize("columns", [1, 16, 100])
def test_all_of_every_row_is_read(columns, count, restored_threads, seed):
    torch.manual_seed(seed)
    table, rows = torch.randint(-(2**31), 2**31, (50, columns), dtype=torch.int32), torch.randint(50, (count,))
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(read_rows(table, rows))
    assert found[0] == found[1]
    # flipping a bit of a row that is read an odd number of times changes the result, in any column
    odd = torch.bincount(rows, minlength=50) % 2 == 1
    for row in range(50):
        changed = table.clone()
        changed[row, torch.randint(columns, ())] ^= 1
        assert (read_rows(changed, rows) != found[0]) == bool(odd[row])


def test_rows_that_a_table_lacks_are_not_read():
    with pytest.raises(IndexError, match="row 7 of a table of 7 rows"):
        read_rows(torch.randn(7, 4), torch.tensor([0, 7]))
