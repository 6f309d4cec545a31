"""Training tables: updates in the backward, later, or queued; pools, accumulation, clipping."""

import copy

import pytest
import row_reference
import torch
from training_steps import SMALL, run_steps

from layers import build, spec_from
from layers.checking.verification import relative_rms
from layers.kernels.lookups import Lookups
from layers.kernels.row_update import ROW_OPTIMIZERS, RowStep
from layers.layer import Routing
from layers.memory import Memory
from layers.optim.layer_optimizer import LayerOptimizer, clip_gradients_
from layers.optim.table_optimizer import RowRule, TableOptimizer
from layers.spec import MemorySpec
from layers.tables.value_table import ValueTable

NUM_ROWS, WIDTH = 60, 20
ALL_OPTIMIZERS = [*ROW_OPTIMIZERS, "adamw"]
# 16 bits: a gradient that is written is rounded before it is spent, one that is spent at once is not
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2.0**-6}


def train_table(way, operation, rule, dtype, seed, steps=4):
    """A table's weights and optimizer state after some steps, and the gradients of what it was multiplied with."""
    torch.manual_seed(seed)
    table = ValueTable(NUM_ROWS, WIDTH, dtype=dtype)
    optimizer, gradients = TableOptimizer(table, rule, seed=seed), []
    for _ in range(steps):
        lookups = Lookups(torch.randint(NUM_ROWS, (9, 5)), NUM_ROWS)
        leaf = torch.randn(9, 5) if operation == "bag" else torch.randn(9, WIDTH).to(dtype)
        y = getattr(table, operation)(lookups, leaf.requires_grad_())
        upstream = torch.randn_like(y)
        if way == "later":
            y.backward(upstream)
        else:
            with getattr(optimizer, way)():
                y.backward(upstream)
            assert table.gradient is None
        optimizer.step()
        table.gradient = None
        gradients.append(leaf.grad)
    assert optimizer.number == steps
    return table.weight.detach(), optimizer.state.named_tensors(), torch.stack(gradients)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("operation", ["bag", "dots"])
@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_fused_queued_and_later_are_one_update(optimizer, operation, dtype, path, seed):
    rule = RowRule(optimizer, 0.02, 0.1)
    weight, state, gradients = train_table("later", operation, rule, dtype, seed)
    for way in ("fused", "queued"):
        found_weight, found_state, found_gradients = train_table(way, operation, rule, dtype, seed)
        assert relative_rms(found_weight, weight.double()) < TOLERANCE[dtype]
        assert relative_rms(found_gradients, gradients.double()) < TOLERANCE[dtype]
        assert list(found_state) == list(state)
        for name, tensor in found_state.items():
            assert relative_rms(tensor, state[name].double()) < TOLERANCE[dtype], name


def two_layers(**changes):
    """Memory layers that share a pool and read different numbers of its rows."""
    pool = ValueTable(SMALL["num_keys"], SMALL["model_dim"])
    return pool, [Memory(MemorySpec(**(SMALL | changes)), table=pool) for changes in ({}, {"heads": 1, "top_k": 3})]


def imposed(layer, tokens, *, all_rows):
    """A routing, so that whichever way the gradients are computed they are of the same rows."""
    shape = (tokens, layer.spec.heads, layer.spec.top_k)
    return Routing(torch.randperm(64).view(shape) if all_rows else torch.randint(64, shape))


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_a_shared_pool_is_updated_once_a_step_by_all_its_uses(optimizer, path, seed):
    """The gradients of both layers summed, and a dense step; lazy_adam is one where all rows are read."""
    torch.manual_seed(seed)
    pool, layers = two_layers()
    trained = LayerOptimizer(layers, optimizer, 1e-6, table_learning_rate=0.02, table_weight_decay=0.1)
    (of_pool,) = trained.tables
    dense = row_reference.DenseOptimizer(pool.weight)
    for number in range(1, 5):
        routings = [imposed(layers[0], 8, all_rows=optimizer == "lazy_adam"), imposed(layers[1], 5, all_rows=False)]
        inputs = [torch.randn(count, 24) for count in (8, 5)]

        def loss(inputs=inputs, routings=routings):
            return sum(layer(x, how).square().sum() for layer, x, how in zip(layers, inputs, routings, strict=True))

        loss().backward()
        step = RowStep(optimizer, 0.02, 0.1, number=number)
        dense.step(pool.gradient.to_dense(64).double(), step, pool.gradient.rows.tolist())
        for layer in layers:
            layer.zero_gradients()
        with trained.fused():
            loss().backward()
        assert pool.gradient is None and of_pool.number == number - 1
        trained.step()
        assert of_pool.number == number
        # some tens of roundings of the layers' arithmetic a step
        assert relative_rms(pool.weight, dense.table) < 1e-5
        for name, tensor in dense.state(optimizer).items():
            assert relative_rms(getattr(of_pool.state, name), tensor) < 1e-5, name


def test_a_layer_alone_has_no_row_left_to_step(path, seed):
    """Its rows have changed when the backward is over, and ``step`` changes no row again."""
    torch.manual_seed(seed)
    layer = Memory(MemorySpec(**SMALL))
    optimizer, before = LayerOptimizer(layer, "row_adagrad", 0.1), layer.table.weight.clone()
    with optimizer.fused():
        layer(torch.randn(3, 24)).sum().backward()
    after = layer.table.weight.clone()
    assert not torch.equal(after, before)
    optimizer.step()
    assert torch.equal(layer.table.weight, after)


@pytest.mark.parametrize("way", ["later", "queued"])
def test_two_backward_passes_and_one_step(way, path, seed):
    torch.manual_seed(seed)
    table = ValueTable(NUM_ROWS, WIDTH)
    optimizer = TableOptimizer(table, RowRule("row_adagrad", 0.02))
    dense, summed = row_reference.DenseOptimizer(table.weight), torch.zeros(NUM_ROWS, WIDTH, dtype=torch.float64)
    read = set()
    for _ in range(2):
        rows, weights = torch.randint(NUM_ROWS, (9, 5)), torch.randn(9, 5)
        y = table.bag(Lookups(rows, NUM_ROWS), weights)
        upstream = torch.randn_like(y)
        if way == "later":
            y.backward(upstream)
        else:
            with optimizer.queued():
                y.backward(upstream)
        summed += row_reference.gradient(NUM_ROWS, rows, weights, upstream)
        read |= set(rows.flatten().tolist())
    optimizer.step()
    dense.step(summed, RowStep("row_adagrad", 0.02), sorted(read))
    assert relative_rms(table.weight, dense.table) < 1e-6
    assert optimizer.number == 1


def test_a_second_backward_in_a_fused_step_is_refused_and_changes_nothing(path):
    table = ValueTable(NUM_ROWS, WIDTH)
    optimizer, lookups = TableOptimizer(table, RowRule("sgd", 0.5)), Lookups(torch.tensor([[1, 2]]), NUM_ROWS)
    with optimizer.fused():
        table.bag(lookups, torch.ones(1, 2)).sum().backward()
        after = table.weight.clone()
        with pytest.raises(RuntimeError, match="used twice in a fused step"):
            table.bag(lookups, torch.ones(1, 2)).sum().backward()
    with optimizer.fused(), pytest.raises(RuntimeError, match="used twice in a fused step"):
        table.bag(lookups, torch.ones(1, 2)).sum().backward()
    assert torch.equal(table.weight, after)
    optimizer.step()
    with optimizer.fused():  # the next step may
        table.bag(lookups, torch.ones(1, 2)).sum().backward()
    table.bag(lookups, torch.ones(1, 2)).sum().backward()
    assert table.gradient is not None  # outside, gradients are kept again


def dense_twin(layers):
    """All gradients as torch has them: of tables, dense ones."""
    twins = []
    tables = {id(table.weight): table for layer in layers for table in layer.tables()}
    for parameter in {id(p): p for layer in layers for p in layer.parameters()}.values():
        twin = torch.nn.Parameter(parameter.detach().clone())
        table = tables.get(id(parameter))
        twin.grad = parameter.grad.clone() if table is None else table.gradient.to_dense(len(parameter))
        twins.append(twin)
    return twins


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
def test_clipping_is_that_of_dense_gradients(max_norm, path, seed):
    torch.manual_seed(seed)
    _, layers = two_layers()
    layers.append(build(spec_from({"kind": "peer", **SMALL})))
    for layer in layers:
        layer(torch.randn(6, 24)).square().sum().backward()
    twins = dense_twin(layers)
    wanted = torch.nn.utils.clip_grad_norm_(twins, max_norm)
    torch.testing.assert_close(clip_gradients_(layers, max_norm), wanted)
    for twin, clipped in zip(twins, dense_twin(layers), strict=True):
        torch.testing.assert_close(clipped.grad, twin.grad)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ALL_OPTIMIZERS)
@pytest.mark.parametrize("kind", ["memory", "memory_plus", "peer"])
def test_a_learning_rate_of_zero_leaves_every_bit(kind, optimizer, dtype, fused, seed):
    layer = build(spec_from({"kind": kind, **SMALL, "dtype": dtype}), seed=seed)
    before = copy.deepcopy(layer.state_dict())
    trained = LayerOptimizer(layer, optimizer, 0.0, table_weight_decay=0.1)
    run_steps(layer, trained, torch.Generator().manual_seed(seed), 2, fused=fused)
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor.view(bits[tensor.dtype]), before[name].view(bits[tensor.dtype])), name
    for table in trained.tables:
        assert optimizer == "adamw" or table.number == 2  # all of the work was done


def test_another_learning_rate_from_the_next_update_on(path):
    table = ValueTable(NUM_ROWS, WIDTH)
    optimizer, lookups = TableOptimizer(table, RowRule("sgd", 0.5)), Lookups(torch.tensor([[3]]), NUM_ROWS)
    for rate in (0.5, 0.25):
        before = table.weight[3].clone()
        with optimizer.fused():
            table.bag(lookups, torch.ones(1, 1)).sum().backward()
        optimizer.step()
        torch.testing.assert_close(before - table.weight[3], torch.full((WIDTH,), rate))
        optimizer.set_learning_rate(0.25)


@pytest.mark.parametrize("optimizer", ROW_OPTIMIZERS)
def test_nothing_happens_without_a_gradient(optimizer):
    table = ValueTable(NUM_ROWS, WIDTH)
    before, trained = table.weight.clone(), TableOptimizer(table, RowRule(optimizer, 1.0))
    trained.step()
    assert torch.equal(table.weight, before) and trained.number == 0
