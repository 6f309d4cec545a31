"""The value table: its memory, its numbers, its row gradients."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from recorded_operators import recorded

from layers.checking.verification import relative_rms
from layers.initialize import BLOCK_ELEMENTS, EXACT_ELEMENTS, fill_normal_
from layers.kernels.lookups import Lookups
from layers.tables.value_table import RowGradient, ValueTable


def gradient(rows, columns=4):
    return RowGradient(torch.tensor(rows, dtype=torch.int32), torch.randn(len(rows), columns))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("operation", ["bag", "dots"])
def test_gradients_agree_with_autograd(operation, frozen, path, seed):
    torch.manual_seed(seed)
    table = ValueTable(40, 24)
    rows = torch.randint(40, (13, 6))
    leaf = torch.randn(13, 6 if operation == "bag" else 24).requires_grad_(not frozen)
    y = getattr(table, operation)(Lookups(rows, 40), leaf)
    upstream = torch.randn_like(y)
    y.backward(upstream)

    values, plain = (tensor.detach().double().requires_grad_() for tensor in (table.weight, leaf))
    read = values[rows]
    expected = (plain[:, None] @ read)[:, 0] if operation == "bag" else (read @ plain[:, :, None])[:, :, 0]
    expected.backward(upstream.double())
    pairs = [(y.detach(), expected.detach()), (table.gradient.to_dense(40), values.grad)]
    if not frozen:
        pairs.append((leaf.grad, plain.grad))
    assert max(relative_rms(actual, wanted) for actual, wanted in pairs) < 1e-6


def test_an_expanded_gradient_is_as_good_as_any(path):
    table = ValueTable(8, 3)
    table.bag(Lookups(torch.tensor([[1, 2]]), 8), torch.ones(1, 2)).sum().backward()
    assert table.gradient.rows.tolist() == [1, 2]
    assert bool((table.gradient.values == 1).all())


def test_a_gradient_nobody_wants_is_not_computed():
    table = ValueTable(8, 3)
    lookups = Lookups(torch.tensor([[1, 2]]), 8)
    with recorded() as calls:
        table.bag(lookups, torch.ones(1, 2)).sum().backward()
        table.dots(lookups, torch.ones(1, 3)).sum().backward()
    assert [name for name, _ in calls if name in ("weighted_bag", "row_dots")] == ["weighted_bag", "row_dots"]
    assert [arguments[-1] for name, arguments in calls if name == "row_backward"] == [False, False, False]


def test_gradients_add_up_to_ascending_distinct_rows(seed):
    torch.manual_seed(seed)
    table = ValueTable(10, 4)
    parts = [gradient([0, 3, 9]), gradient([3, 4]), gradient([0]), gradient([1, 2, 3, 4, 5, 6, 7, 8])]
    for part in parts:
        table.accumulate(part)
    assert table.gradient.rows.tolist() == list(range(10))
    torch.testing.assert_close(table.gradient.to_dense(10), sum(part.to_dense(10) for part in parts))


def test_several_backward_passes_accumulate():
    table = ValueTable(10, 4)
    lookups = Lookups(torch.tensor([[1, 7]]), 10)
    for _ in range(3):
        table.bag(lookups, torch.ones(1, 2)).sum().backward()
    assert table.gradient.rows.tolist() == [1, 7]
    assert bool((table.gradient.values == 3).all())
    assert table.weight.grad is None


def test_nothing_is_recorded_without_autograd():
    table = ValueTable(10, 4)
    with torch.no_grad():
        y = table.bag(Lookups(torch.tensor([[1, 7]]), 10), torch.ones(1, 2))
    assert not y.requires_grad and table.gradient is None


def test_a_copy_is_independent():
    table = ValueTable(2000, 600)  # large enough for a mapping of its own
    other = copy.deepcopy(table)
    other.weight.zero_()
    assert bool(table.weight.count_nonzero())


def test_state_dict_round_trip():
    table, other = ValueTable(30, 4), ValueTable(30, 4)
    other.load_state_dict(table.state_dict())
    assert list(table.state_dict()) == ["weight"] and torch.equal(table.weight, other.weight)


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux only")
def test_a_large_table_lies_on_huge_pages_where_the_kernel_gives_them():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel gives none")
    assert ValueTable(2**17, 128).huge_pages  # 64 MiB
    assert not ValueTable(16, 4).huge_pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("elements", [1, EXACT_ELEMENTS, EXACT_ELEMENTS + 1, BLOCK_ELEMENTS + 1, 3 * BLOCK_ELEMENTS])
def test_normal_numbers_of_the_std_asked(elements, dtype, seed):
    tensor = torch.full((elements,), torch.nan, dtype=dtype)
    fill_normal_(tensor, 0.25, torch.Generator().manual_seed(seed))
    assert bool(tensor.isfinite().all())
    if elements > 1:
        assert abs(tensor.double().std().item() - 0.25) < 0.001
        assert abs(tensor.double().mean().item()) < 0.001


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("elements", [1, 100, EXACT_ELEMENTS + 1])
def test_narrow_numbers_are_rounded_fp32_ones(elements, dtype, seed):
    """Drawn in 16 bits, torch 2.11's end at 3.3 times their std."""
    narrow, wide = torch.empty(elements, dtype=dtype), torch.empty(elements, dtype=torch.float32)
    for tensor in (narrow, wide):
        fill_normal_(tensor, 0.25, torch.Generator().manual_seed(seed))
    assert torch.equal(narrow, wide.to(dtype))
    if elements > EXACT_ELEMENTS:
        assert narrow.abs().max().item() > 4.5 * 0.25


def test_the_same_seed_gives_the_same_numbers(seed):
    first, second = (ValueTable(3, 5, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first.weight, second.weight)


def test_no_two_rows_of_a_repeated_block_are_alike():
    table = ValueTable(BLOCK_ELEMENTS // 64 * 4, 64)
    first_columns = table.weight[:, :3].contiguous().view(torch.int32)
    assert len(first_columns.unique(dim=0)) > 0.9999 * len(first_columns)
