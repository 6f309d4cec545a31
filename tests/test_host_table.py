"""Tables in the host's memory: both ways of reading them, training, and whose memory they count against.

Here the device is the host's own processor, so that staging is followed in full and pinning is not.
"""

import copy
import pickle
import random
from contextlib import nullcontext

import pytest
import torch
from retrieval_checks import assert_right, random_dimensions, random_routing, tokens_for

from layers import build, spec_from, verify
from layers.kernels.lookups import Lookups
from layers.memory import Memory
from layers.optim.layer_optimizer import LayerOptimizer
from layers.spec import MemorySpec, Step
from layers.tables.host_table import WAYS, HostTable
from layers.tables.value_table import ValueTable
from membench.case import Case
from membench.errors import UsageError
from membench.machine.datasheet import parse_hardware
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.time import Clock, Sampling
from membench.planning.fit import PROCESS_BYTES
from membench.planning.planner import make_plan
from membench.scenario.scenario import load_scenario, parse_scenario
from membench.tables.plan import plan_tables

SMALL = {"model_dim": 64, "num_keys": 32**2, "heads": 2, "top_k": 8, "key_dim": 32, "dtype": "float32"}


def twins(way, seed, **changes):
    """The same layer with its table on the device and on the host."""
    near = spec_from({"kind": "memory", **SMALL, **changes})
    far = near.model_copy(update={"table_on": "host"})
    layers = build(near, seed=seed), build(far, seed=seed)
    assert isinstance(layers[1].table, HostTable)
    layers[1].table.way = way
    return layers


def all_gradients(layer, x):
    layer.zero_gradients()
    inputs = x.clone().requires_grad_()
    y = layer(inputs)
    y.square().sum().backward()
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    return [y.detach(), inputs.grad, layer.table.gradient.rows, layer.table.gradient.values, *gradients]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["memory", "memory_plus"])
def test_random_configs_against_the_reference(kind, way, path, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for dtype in ["float32"] * 8 + ["bfloat16"] * 4:
        dimensions = random_dimensions(rng, "qk_norm" if kind == "memory_plus" else "query_norm")
        spec = spec_from({"kind": kind, **dimensions, "dtype": dtype, "table_on": "host"})
        layer = build(spec, seed=seed)
        layer.table.way = way
        assert_right(layer, tokens_for(spec, 48, getattr(torch, dtype)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("imposed", [False, True])
def test_a_rank_share_against_the_reference(imposed, way, seed):
    torch.manual_seed(seed)
    spec = spec_from({"kind": "memory", **SMALL, "table_on": "host"})
    layer, x = build(spec, ranks=4, seed=seed), tokens_for(spec, 16)
    layer.table.way = way
    routing = random_routing(spec, 16, 4, x.dtype, imposed=imposed)
    assert_right(layer, x, routing)
    assert verify(layer, x, routing, seed=seed).failure is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens", [1, 7, 130])
def test_the_same_bits_as_on_the_device(tokens, way, path, seed):
    near, far = twins(way, seed, dtype="bfloat16", value_dim=100)
    x = tokens_for(near.spec, tokens, torch.bfloat16)
    for one, other in zip(all_gradients(near, x), all_gradients(far, x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("way", WAYS)
def test_dots_and_their_gradients(way, seed):
    """As PEER reads its first table."""
    generator = torch.Generator().manual_seed(seed)
    near = ValueTable(50, 20, generator=torch.Generator().manual_seed(seed))
    far = HostTable(50, 20, generator=torch.Generator().manual_seed(seed), way=way)
    assert torch.equal(near.weight, far.weight)
    rows, tokens = torch.randint(50, (9, 6), generator=generator), torch.randn(9, 20, generator=generator)
    found = []
    for table in (near, far):
        x = tokens.clone().requires_grad_()
        dots = table.dots(Lookups(rows, 50), x)
        dots.square().sum().backward()
        with torch.no_grad():
            assert torch.equal(dots, table.dots(Lookups(rows, 50), x))
        found.append([dots.detach(), x.grad, table.gradient.to_dense(50)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "row_adagrad", "row_adam", "lazy_adam", "adamw"])
def test_training_changes_the_same_rows_to_the_same_bits(optimizer, fused, way, path, seed):
    """bf16 rows are rounded at random, by the row and the step alone.

    fp32 where fused: a gradient that goes by the host has the layer's dtype, one that a fused update uses is fp32.
    """
    torch.manual_seed(seed)
    dtype = "float32" if fused else "bfloat16"
    layers = twins(way, seed, dtype=dtype)
    before = layers[0].table.weight.clone()
    optimizers = [LayerOptimizer(layer, optimizer, learning_rate=0.01) for layer in layers]
    for _ in range(3):
        x = tokens_for(layers[0].spec, 20, getattr(torch, dtype))
        for layer, steps in zip(layers, optimizers, strict=True):
            layer.zero_gradients()
            with steps.fused() if fused else nullcontext():
                layer(x).square().sum().backward()
            steps.step()
    near, far = layers
    assert not torch.equal(near.table.weight, before)
    for name, parameter in near.named_parameters():
        assert torch.equal(parameter, far.get_parameter(name)), name


@pytest.mark.parametrize("way", WAYS)
def test_a_pool_that_layers_share(way, seed):
    torch.manual_seed(seed)
    spec = MemorySpec(**SMALL, table_on="host")
    pool = HostTable(spec.num_keys, spec.row_elements, way=way)
    layers = [Memory(spec, table=pool) for _ in range(3)]
    alone = copy.deepcopy(pool.weight)
    optimizer = LayerOptimizer(layers, "sgd", learning_rate=0.1)
    x = tokens_for(spec, 20)
    sum(layer(x).sum() for layer in layers).backward()
    expected = alone - 0.1 * pool.gradient.to_dense(spec.num_keys)
    for layer in layers:
        layer.zero_gradients()
    with optimizer.fused():
        sum(layer(x).sum() for layer in layers).backward()
    optimizer.step()
    torch.testing.assert_close(pool.weight.data, expected.data)


def test_the_faster_way_is_chosen_once_and_told(seed):
    layer = build(spec_from({"kind": "memory", **SMALL, "table_on": "host"}), seed=seed)
    assert layer.table.way is None and layer.notes == ()
    x = tokens_for(layer.spec, 30)
    with torch.no_grad():
        layer(x)
    way, way_ms = layer.table.way, dict(layer.table.way_ms)
    assert set(way_ms) == set(WAYS) and way == min(way_ms, key=way_ms.get)
    assert layer.notes[0].startswith(f"table in host memory, read {way} (direct takes ")
    layer(x).sum().backward()
    assert layer.table.way_ms == way_ms


def test_no_tokens_and_one_row():
    for way in WAYS:
        table = HostTable(5, 3, way=way)
        empty = table.bag(Lookups(torch.zeros(0, 2, dtype=torch.int64), 5), torch.zeros(0, 2, requires_grad=True))
        empty.sum().backward()
        assert empty.shape == (0, 3) and not len(table.gradient.rows)
        table.gradient = None
        table.bag(Lookups(torch.full((4, 2), 3), 5), torch.ones(4, 2)).sum().backward()
        assert table.gradient.rows.tolist() == [3] and bool((table.gradient.values == 8).all())


def test_it_stays_where_it_is_and_keeps_its_dtype():
    layer = build(spec_from({"kind": "memory", **SMALL, "table_on": "host"}))
    before = layer.table.weight.data_ptr()
    layer.to(torch.float64)
    assert layer.query.dtype == torch.float64
    assert layer.table.weight.dtype == torch.float32 and layer.table.weight.data_ptr() == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_reads_its_own_rows(copied, way, seed):
    torch.manual_seed(seed)
    layer, x = twins(way, seed)[1], torch.randn(5, 64)
    with torch.no_grad():
        before = layer(x)
        twin = copied(layer)
        twin.table.weight.zero_()
        assert not twin(x).any() and torch.equal(layer(x), before)
        twin.load_state_dict(layer.state_dict(), assign=True)
        assert torch.equal(twin(x), before)


@pytest.mark.parametrize("mode", ["decode", "forward_backward", "train_step"])
def test_it_is_measured(mode):
    optimizer = "row_adagrad" if mode == "train_step" else None
    spec = spec_from({"kind": "memory", **SMALL, "table_on": "host"})
    case = Case(arm="far", mode=mode, layer=spec, tokens=32, optimizer=optimizer)
    measurement = CaseMeasurement(build(spec), Clock("cpu"), 2**16, lambda doing: None)
    found = measurement.run(case, Sampling(5, 3, 1.0, 0.01), ["eager"])
    assert found["notes"][0].startswith("table in host memory, read ")
    assert max(found["reference"]["errors"].values()) < 1e-5


def test_whose_memory_a_table_is_counted_against():
    near = spec_from({"kind": "memory", **SMALL})
    far = near.model_copy(update={"table_on": "host"})
    table = 1024 * 64 * 4
    rows = 500.0
    for mode, optimizer, state in [("decode", None, 0), ("forward_backward", None, 0), ("train_step", "row_adam", 260)]:
        one, other = (
            spec.cost(Step(20, mode=mode, optimizer=optimizer, unique_rows=rows)).memory for spec in (near, far)
        )
        copies = rows * 64 * 4
        assert one.host == 0
        assert one.weights - other.weights == table
        assert one.optimizer - other.optimizer == 1024 * state
        assert other.activations - one.activations == copies
        assert other.host == table + 1024 * state + (0 if mode == "decode" else copies)


SCENARIO = """
schema_version: 1
name: large
model_dim: 4096
arms:
  near: {layer: memory, num_keys: 16M, key_dim: 512}
  far: {layer: memory, num_keys: 16M, key_dim: 512, table_on: host}
workload: {modes: [decode]}
fit: {policy: skip}
"""
TABLE_BYTES = 2**24 * 4096 * 2


def reasons(host_bytes, hardware="h100", **given):
    plan = make_plan(
        parse_scenario(SCENARIO, "large.yaml"),
        hardware=hardware and parse_hardware(hardware),
        host_bytes=host_bytes,
        **given,
    )
    return plan, {planned.case.arm: planned.skipped for planned in plan.cases}


def test_more_rows_than_the_device_holds():
    plan, skipped = reasons(200 * 10**9)
    assert skipped["near"].startswith("needs ") and skipped["far"] is None
    _, cases = plan_tables(plan)
    column = [each.header for each in cases.columns].index("host GB")
    assert cases.rows[1][column] == TABLE_BYTES and not cases.rows[0][column]

    _, skipped = reasons(100 * 10**9)
    assert skipped["far"] == "needs 137.4 GB of the host's at P = 1, has 100.0 GB"
    _, skipped = reasons(None)  # of a machine that is elsewhere the host is unknown, and refuses nothing
    assert skipped["far"] is None


def test_a_processor_has_one_memory_for_both():
    for available, runs in [(TABLE_BYTES - 10**9, False), (TABLE_BYTES + int(PROCESS_BYTES) + 2 * 10**9, True)]:
        _, skipped = reasons(None, hardware=None, available_bytes=available)
        assert (skipped["far"] is None) == (skipped["near"] is None) == runs


def test_eight_bit_rows_on_the_host_are_refused(scenario_file):
    text = SCENARIO.replace("table_on: host", "table_on: host, row_format: int8")
    with pytest.raises(UsageError, match=r"row_format int8 is for tables on the device: leave out table_on host"):
        load_scenario(scenario_file(text))


def test_the_place_is_part_of_the_id():
    specs = [spec_from({"kind": "memory", **SMALL, "table_on": where}) for where in ("device", "host")]
    assert len({Case(arm="m", mode="decode", layer=spec, tokens=8).id for spec in specs}) == 2
