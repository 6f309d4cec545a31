"""Runs of equal rows in Triton: bit for bit those that torch's own calls find for a GPU, at and about a block's end."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
from against_reference import poisoned_memory

from layers.kernels import paths
from layers.kernels.lookups import find_runs
from layers.kernels.torch.lookups import _padded
from layers.kernels.torch.lookups import find_runs as plain_find_runs
from layers.kernels.triton import lookups

BLOCK = 16
DTYPES = [torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.fixture(autouse=True)
def _seeded(seed, monkeypatch):
    torch.manual_seed(seed)
    monkeypatch.setattr(lookups, "_BLOCK", BLOCK)


def by_torch(ascending, order, dtype):
    begins = torch.ones_like(ascending, dtype=torch.bool)
    begins[1:] = ascending[1:] != ascending[:-1]
    rows, starts = _padded(ascending.to(dtype), begins)
    return rows, starts, order.int()


def assert_same(rows, dtype):
    ascending, order = rows.to(DEVICE).sort(stable=True)
    wanted = by_torch(ascending, order, dtype)
    for _ in range(2):
        with poisoned_memory():
            found = lookups.compacted(ascending, order, dtype)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("count", [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 3 * BLOCK, BLOCK**2 + 5])
@pytest.mark.parametrize("spread", ["one row", "few rows", "any row", "all differ"])
def test_runs_as_torch_finds_them(spread, count):
    rows = {
        "one row": torch.full((count,), 7),
        "few rows": torch.randint(3, (count,)),
        "any row": torch.randint(2 * count + 1, (count,)),
        "all differ": torch.randperm(count),
    }[spread]
    assert_same(rows.int(), torch.int32)


@pytest.mark.parametrize("wide", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("narrow", DTYPES, ids=str)
def test_rows_as_narrow_as_they_were_sorted(narrow, wide):
    assert_same(torch.randint(100, (3 * BLOCK + 3,)).to(narrow), wide)


def test_random_sizes():
    for _ in range(100):
        count = int(torch.randint(6 * BLOCK, ()))
        assert_same(torch.randint(int(torch.randint(1, 2 * count + 2, ())), (count,), dtype=torch.int32), torch.int32)


@pytest.mark.parametrize("num_rows", [1, 128, 129, 2**15, 2**31, 2**40])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_as_an_operator(count, num_rows):
    """As on every path; where kernels are interpreted the host knows how many runs there are."""
    rows = torch.randint(num_rows, (count,))[torch.randint(max(1, count), (count,))].to(DEVICE)
    with paths.forced("triton"):
        found = find_runs(rows, num_rows).exact()
    wanted = plain_find_runs(rows.cpu(), num_rows)
    for one, other in zip((found.rows, found.starts, found.order), wanted, strict=True):
        assert one.dtype == other.dtype and torch.equal(one.cpu(), other)


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_lookups():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.lookups import compacted
for lookups in (16, 5001):
    compacted(torch.zeros(lookups, dtype=torch.int32), torch.zeros(lookups, dtype=torch.int64), torch.int32)
""")
    assert launched[:2] == launched[2:]
