"""The reader that random rows are measured with on a GPU: compiled there, interpreted elsewhere."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

from functools import reduce
from operator import xor

import pytest
import torch
from against_reference import poisoned_memory
from mapped_memory import mapped

from layers.kernels.triton.read_rows import read_rows


def combined(table, rows):
    with poisoned_memory():
        return reduce(xor, read_rows(table, rows).tolist(), 0)


@pytest.mark.parametrize("count", [0, 1, 5, 41])
@pytest.mark.parametrize("columns", [1, 7, 100, 1100])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int8])
def test_all_of_every_row_is_read_once(columns, count, dtype, seed):
    torch.manual_seed(seed)
    limits = torch.iinfo(dtype)
    table = torch.randint(limits.min, limits.max + 1, (50, columns), device=DEVICE).to(dtype)
    rows = torch.randint(50, (count,), device=DEVICE)
    words = table.view(torch.int32) if columns * table.element_size() % 4 == 0 else table
    assert combined(table, rows) == reduce(xor, words[rows].flatten().tolist(), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_any_dtype(dtype, seed):
    torch.manual_seed(seed)
    table, rows = torch.randn(9, 12, device=DEVICE).to(dtype), torch.tensor([3, 8, 0], device=DEVICE)
    assert combined(table, rows) == reduce(xor, table.view(torch.int32)[rows].flatten().tolist(), 0)


def test_rows_past_the_two_billionth_word():
    count, columns = 2**20 + 3, 2200
    if DEVICE == "cuda":
        table = torch.zeros(count, columns, dtype=torch.int32, device=DEVICE)
    else:
        table = mapped(count, columns, torch.int32)
    table[-1, -1], table[-3, 0] = 5, 9
    assert combined(table, torch.tensor([count - 1, 0, count - 3], device=DEVICE)) == 5 ^ 9


def test_it_compiles_for_hopper_once_for_all_numbers_of_rows():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.read_rows import read_rows

for count in (1000, 1001):
    for columns in (100, 1024):
        read_rows(torch.zeros(9, columns), torch.zeros(count, dtype=torch.int64))
""")
    assert len(launched) == 4 and launched[:2] == launched[2:]
