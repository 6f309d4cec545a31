"""A table's updates counted where it lies: the same, bit for bit, as by the host's numbers, on every path."""

from triton_device import DEVICE  # isort: split

import copy

import pytest
import torch
import triton_interpreter  # noqa: F401

from layers.kernels import paths
from layers.kernels.lookups import Lookups
from layers.kernels.row_passes import update_rows_
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState, RowStep
from layers.kernels.step_clock import Field, advance_, new_clock
from layers.optim.table_optimizer import RowRule, TableOptimizer
from layers.tables.value_table import ValueTable

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="tests marked gpu count there")

PATHS = ["torch", "native", "triton"]
ROWS, D = 20, 7


@pytest.fixture(params=PATHS)
def path(request):
    if request.param == "native" and not paths.has_native():
        pytest.skip("no C++ compiler")
    with paths.forced(request.param):
        yield request.param


def trained(rule, dtype, *, on_device):
    """A table and its optimizer after four updates of changing rates, fused and not, in the last two from a copy."""
    generator = torch.Generator().manual_seed(1)
    table = ValueTable(ROWS, D, dtype=dtype, generator=generator)
    optimizer = TableOptimizer(table, RowRule(rule, 0.03, 0.1, betas=(0.8, 0.95)), seed=5)
    if on_device:
        optimizer.count_on_device()
    for number in range(4):
        if number == 2:
            before, optimizer = optimizer, TableOptimizer(table, RowRule("sgd" if rule == "sgd" else rule), seed=5)
            if on_device:
                optimizer.count_on_device()
            optimizer.load_state_dict(before.state_dict())
        optimizer.set_learning_rate(0.03 / (1 + number))
        lookups = Lookups(torch.randint(ROWS, (3, 2), generator=generator), ROWS)
        weights = torch.rand(3, 2, generator=generator).requires_grad_()
        if number % 2:
            with optimizer.fused():
                table.bag(lookups, weights).sum().backward()
        else:
            table.bag(lookups, weights).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", ROW_OPTIMIZERS)
def test_updates_are_those_of_the_hosts_numbers(rule, dtype, path):
    """bf16 rows are rounded at random, by the same bits."""
    host, device = (trained(rule, dtype, on_device=on_device) for on_device in (False, True))
    assert host.number == device.number == 4
    assert torch.equal(host.table.weight, device.table.weight)
    for one, other in zip(host.state_tensors(), device.state_tensors(), strict=True):
        assert torch.equal(one, other)
    assert device.state_dict()["number"] == 4


@pytest.mark.parametrize("number", [1, 2, 7, 1000, 10**6])
@pytest.mark.parametrize("rule", ["row_adam", "lazy_adam"])
def test_late_updates_too(rule, number, path):
    found = []
    for on_device in (False, True):
        generator = torch.Generator().manual_seed(2)
        table, gradient = torch.randn(2, ROWS, D, generator=generator)
        table, state = table.bfloat16(), RowState.of(table, rule)
        state.first.copy_(gradient)
        state.second.fill_(0.5)
        mixed = 77
        seed = (mixed + number) * 0x9E3779B1 & 0xFFFFFFFF
        step = RowStep(rule, 0.01, 0.1, number=number, seed=seed)
        if on_device:
            clock = new_clock(table.device)
            given = {"NUMBER": number - 1, "LEARNING_RATE": 0.01, "WEIGHT_DECAY": 0.1, "BETA1": 0.9, "BETA2": 0.999}
            for name, value in {**given, "TABLE_SEED": mixed}.items():
                clock[Field[name]] = value
            advance_(clock, adam=True)
            step = RowStep(rule, 0.5, 0.5, seed=0, clock=clock)  # whose own rate and number count for nothing
        update_rows_(table, state, torch.arange(ROWS), gradient.bfloat16(), step)
        found.append([table, *state.named_tensors().values()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_host_counts_on_where_the_device_did():
    optimizer = trained("row_adam", torch.float32, on_device=True)
    optimizer.count_on_host()
    assert optimizer.number == 4
    lookups = Lookups(torch.zeros(1, 1, dtype=torch.int32), ROWS)
    with optimizer.fused():
        optimizer.table.bag(lookups, torch.ones(1, 1, requires_grad=True)).sum().backward()
    assert optimizer.number == 5
    optimizer.count_on_device()
    assert optimizer.number == 5


def test_a_copy_counts_on_by_itself():
    optimizer = trained("row_adam", torch.float32, on_device=True)
    other = copy.deepcopy(optimizer)
    other.number = 9
    assert (optimizer.number, other.number) == (4, 9)


def test_what_is_no_clock_is_refused():
    table, step = torch.zeros(3, 2), RowStep("sgd", 0.1, clock=torch.zeros(11))
    with pytest.raises(ValueError, match=r"clock should be torch\.float64|clock should be float64"):
        update_rows_(table, RowState(), torch.arange(3), torch.zeros(3, 2), step)
    with pytest.raises(ValueError, match="clock"):
        advance_(torch.zeros(3, dtype=torch.float64), adam=False)
