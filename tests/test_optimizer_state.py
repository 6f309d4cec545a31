"""What optimizers of tables remember: runs that are resumed, states that do not fit, bytes."""

import io

import pytest
import torch
from training_steps import SMALL, run_steps

from layers import build
from layers.kernels.lookups import Lookups
from layers.kernels.row_update import ROW_OPTIMIZERS, RowState
from layers.memory import Memory
from layers.optim.layer_optimizer import LayerOptimizer
from layers.optim.table_optimizer import RowRule, TableOptimizer
from layers.spec import MemorySpec, accounting
from layers.tables.value_table import ValueTable

ALL_OPTIMIZERS = [*ROW_OPTIMIZERS, "adamw"]


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ALL_OPTIMIZERS)
def test_a_resumed_run_goes_on_bit_for_bit(optimizer, dtype, fused, seed):
    """Stochastic rounding included: its seed and the number of the update are part of the state."""
    spec = MemorySpec(**(SMALL | {"dtype": dtype}))
    rates = {"learning_rate": 0.01, "table_weight_decay": 0.1}
    layer = build(spec, seed=seed)
    trained, generator = LayerOptimizer(layer, optimizer, **rates), torch.Generator().manual_seed(seed)
    run_steps(layer, trained, generator, 3, fused=fused)
    state = saved_and_loaded({"layer": layer.state_dict(), "optimizer": trained.state_dict()})
    resumed_generator = generator.clone_state()
    run_steps(layer, trained, generator, 3, fused=fused)

    resumed = build(spec, seed=seed + 1)
    resumed.load_state_dict(state["layer"])
    again = LayerOptimizer(resumed, optimizer, **rates)
    again.load_state_dict(state["optimizer"])
    run_steps(resumed, again, resumed_generator, 3, fused=fused)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    for ours, theirs in zip(trained.state_tensors(), again.state_tensors(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_rounding_depends_on_is_part_of_the_state(path, seed):
    """Optimizers of other seeds round alike once one has the other's state."""
    lookups = Lookups(torch.randint(60, (9, 5)), 60)
    first, second = (
        TableOptimizer(ValueTable(60, 20, dtype=torch.bfloat16), RowRule("sgd"), seed=seed + number)
        for number in (0, 1)
    )
    second.table.load_state_dict(first.table.state_dict())
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        with optimizer.fused():
            optimizer.table.bag(lookups, torch.ones(9, 5)).sum().backward()
    assert torch.equal(first.table.weight, second.table.weight)


@pytest.mark.parametrize("given", ALL_OPTIMIZERS)
@pytest.mark.parametrize("wanted", ALL_OPTIMIZERS)
def test_the_state_of_another_optimizer_is_refused(wanted, given):
    layer = Memory(MemorySpec(**SMALL))
    generator = torch.Generator().manual_seed(0)
    before, after = LayerOptimizer(layer, given), LayerOptimizer(layer, wanted)
    run_steps(layer, before, generator, 1, fused=False)
    if given == wanted:
        after.load_state_dict(before.state_dict())
    else:
        with pytest.raises(ValueError, match=given):
            after.load_state_dict(before.state_dict())


@pytest.mark.parametrize(("rows", "columns"), [(50, 20), (60, 10)])
def test_the_state_of_another_table_is_refused(rows, columns):
    own, other = (TableOptimizer(ValueTable(*shape), RowRule("row_adam")) for shape in ((60, 20), (rows, columns)))
    with pytest.raises(ValueError, match="row_adam on this table needs"):
        own.load_state_dict(other.state_dict())


@pytest.mark.parametrize("changes", [{"key_dim": 512}, {"num_keys": 16**2}])
@pytest.mark.parametrize("optimizer", ALL_OPTIMIZERS)
def test_the_state_of_another_layer_is_refused_whole(optimizer, changes):
    """Torch's fused kernels would write past moments of another size."""
    layer, other = (Memory(MemorySpec(**(SMALL | change))) for change in ({}, changes))
    before, after = LayerOptimizer(layer, optimizer), LayerOptimizer(other, optimizer)
    generator = torch.Generator().manual_seed(0)
    run_steps(layer, before, generator, 1, fused=False)
    run_steps(other, after, generator, 1, fused=False)
    if optimizer == "sgd":  # which remembers nothing
        return
    kept = [tensor.clone() for tensor in after.state_tensors()]
    with pytest.raises(ValueError, match=r"the parameter|on this table needs"):
        after.load_state_dict(before.state_dict())
    assert all(torch.equal(*pair) for pair in zip(kept, after.state_tensors(), strict=True))


@pytest.mark.parametrize("state", [{}, 5, {"optimizer": "row_adam", "matrices": [], "tables": []}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="the state"):
        LayerOptimizer(Memory(MemorySpec(**SMALL)), "row_adam").load_state_dict(state)


@pytest.mark.parametrize("optimizer", ALL_OPTIMIZERS)
def test_rates_are_restored_with_the_rest(optimizer):
    layer = Memory(MemorySpec(**SMALL))
    before, after = LayerOptimizer(layer, optimizer, 0.01), LayerOptimizer(layer, optimizer, 0.5)
    after.load_state_dict(saved_and_loaded(before.state_dict()))
    (table,) = after.tables
    assert (table.adamw.param_groups[0]["lr"] if optimizer == "adamw" else table.rule.learning_rate) == 0.01


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_state_is_as_large_as_is_counted(optimizer):
    table = ValueTable(60, 20)
    held = sum(tensor.nbytes for tensor in RowState.of(table.weight, optimizer).named_tensors().values())
    assert held == 60 * accounting.row_state_bytes(20, optimizer)
