"""Tables that only a CUDA device shows in full: pinned host memory, and rows in eight bits. ``make gpu`` runs these."""

import pytest
import torch

from layers import build, spec_from, verify
from layers.kernels.lookups import Lookups
from layers.kernels.paths import forced
from layers.kernels.row_passes import weighted_bag
from layers.optim.layer_optimizer import LayerOptimizer
from layers.tables.host_table import WAYS, HostTable
from layers.tables.pinned import RowCopier, device_view_of, pin
from layers.tables.quantized_table import QuantizedTable
from layers.tables.value_table import ValueTable
from membench.case import Case
from membench.measuring.ceilings import random_row_ceiling
from membench.measuring.inputs import make_inputs
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.time import Clock, Sampling

pytestmark = pytest.mark.gpu

SMALL = {"num_keys": 4096, "heads": 2, "top_k": 7, "key_dim": 32}


def a_layer(seed, **given):
    spec = spec_from({"kind": "memory", "model_dim": 96, **SMALL, **given})
    return build(spec, device="cuda", seed=seed)


def tokens(layer, count):
    return torch.randn(count, layer.spec.model_dim, device="cuda").to(getattr(torch, layer.spec.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pinned_memory_is_the_same_seen_from_both_sides(dtype, seed):
    torch.manual_seed(seed)
    table = torch.randn(10_000, 100).to(dtype)
    pin(table)
    assert table.is_pinned()
    view = device_view_of(table, torch.device("cuda"))
    assert view.is_cuda and view.data_ptr() == table.data_ptr()
    assert torch.equal(view.cpu(), table)
    table[17] = 3  # the same memory, not a copy of it
    assert bool((view[17] == 3).all())


@pytest.mark.parametrize("count", [0, 1, 1000, 200_000])  # the last in many parts
def test_rows_are_copied_through_both_buffers(count, seed):
    torch.manual_seed(seed)
    table, device = torch.randn(5000, 128), torch.device("cuda")
    rows, copier = torch.randint(5000, (count,)), RowCopier(table, torch.device("cuda"))
    for _ in range(2):
        found = copier.copy(rows)
        assert found.device.type == device.type and torch.equal(found.cpu(), table[rows])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 33, 512])
def test_a_host_table_against_the_reference(count, dtype, way, seed):
    torch.manual_seed(seed)
    layer = a_layer(seed, dtype=dtype, table_on="host", value_dim=100)
    layer.table.way = way
    assert not layer.table.weight.is_cuda
    found = verify(layer, tokens(layer, count), seed=seed)
    assert found.failure is None, found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", ["row_adagrad", "lazy_adam"])
def test_a_host_table_trains_as_one_on_the_device(optimizer, way, seed):
    torch.manual_seed(seed)
    near = a_layer(seed, dtype="float32")
    far = a_layer(seed, dtype="float32", table_on="host")
    far.table.way = way
    with torch.no_grad():
        far.table.weight.copy_(near.table.weight)
        for name, parameter in far.named_parameters():
            if name != "table.weight":
                parameter.copy_(near.get_parameter(name))
    steps = [LayerOptimizer(layer, optimizer, learning_rate=0.01) for layer in (near, far)]
    for _ in range(3):
        x = tokens(near, 40)
        for layer, step in zip((near, far), steps, strict=True):
            layer.zero_gradients()
            with step.fused():
                layer(x).square().sum().backward()
            step.step()
    torch.testing.assert_close(far.table.weight.data, near.table.weight.data.cpu(), rtol=1e-3, atol=1e-4)


def test_the_faster_way_is_chosen_by_timing_both():
    table = HostTable(2**16, 512, dtype=torch.bfloat16, device="cuda")
    rows = torch.randint(2**16, (256, 32), device="cuda")
    table.bag(Lookups(rows, 2**16), torch.rand(256, 32, device="cuda"))
    assert set(table.way_ms) == set(WAYS) and table.way == min(WAYS, key=table.way_ms.get)
    assert 1e6 < random_row_ceiling(Clock("cuda"), table.device_view) < 2e11  # a bus, not the device's own memory


def test_a_host_table_draws_other_numbers_for_each_of_two():
    generator = torch.Generator(device="cuda").manual_seed(0)
    one, two = (HostTable(50, 40, device="cuda", generator=generator) for _ in range(2))
    assert not torch.equal(one.weight, two.weight)


@pytest.mark.parametrize("row_format", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model_dim", [96, 100, 1000, 4096])
def test_quantized_rows_against_the_reference(model_dim, dtype, row_format, seed):
    torch.manual_seed(seed)
    layer = a_layer(seed, model_dim=model_dim, dtype=dtype, row_format=row_format)
    for path in ("triton", "torch"):
        with forced(path), torch.no_grad():
            found = verify(layer, tokens(layer, 33), gradients=False, seed=seed)
        assert found.failure is None, found


@pytest.mark.parametrize("row_format", ["int8", "float8_e4m3fn"])
def test_quantized_rows_are_decoded_from_a_cuda_graph(row_format):
    spec = spec_from({"kind": "memory", "model_dim": 128, **SMALL, "row_format": row_format})
    case = Case(arm="small", mode="decode", layer=spec, tokens=8)
    measurement = CaseMeasurement(build(spec, device="cuda"), Clock("cuda"), 2**20, lambda doing: None)
    found = measurement.run(case, Sampling(5, 3, 1.0, 0.05), ["eager", "cuda_graph"])
    assert found["implementation"]["tried"]["cuda_graph"]["error"] is None


@pytest.mark.parametrize("mode", ["decode", "forward_backward", "train_step"])
def test_a_host_table_is_measured(mode):
    spec = spec_from({"kind": "memory", "model_dim": 128, **SMALL, "table_on": "host"})
    case = Case(arm="far", mode=mode, layer=spec, tokens=64, optimizer="row_adagrad" if mode == "train_step" else None)
    layer = build(spec, device="cuda")
    assert make_inputs(layer, case, 1, "cuda")
    found = CaseMeasurement(layer, Clock("cuda"), 2**20, lambda doing: None).run(
        case, Sampling(5, 3, 1.0, 0.05), ["eager"]
    )
    assert found["notes"][0].startswith("table in host memory, read ")


def test_eight_bits_are_faster_than_sixteen():
    """Rows past the cache: half the bytes, and a bag is bound by bytes."""
    rows = torch.randint(2**20, (2048, 128), device="cuda", dtype=torch.int32)
    weights, clock = torch.rand(2048, 128, device="cuda"), Clock("cuda")
    table = ValueTable(2**20, 1024, dtype=torch.bfloat16, device="cuda")
    small = QuantizedTable.random(2**20, 1024, torch.int8, dtype=torch.bfloat16, device="cuda")

    def seconds(bag):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(3):
            bag()
        begin.record()
        for _ in range(10):
            bag()
        end.record()
        clock.synchronize()
        return begin.elapsed_time(end)

    sixteen = seconds(lambda: weighted_bag(table.weight, rows, weights))
    eight = seconds(lambda: small.bag(Lookups(rows, 2**20), weights))
    assert eight < sixteen
