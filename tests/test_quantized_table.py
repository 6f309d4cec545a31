"""Rows in eight bits: how they are rounded, read, counted and refused where they cannot be trained."""

import math

import pytest
import torch
from against_reference import poisoned_memory
from mapped_memory import mapped
from retrieval_checks import random_routing, tokens_for

from layers import build, spec_from, verify
from layers.checking.sampled_reference import relative_rms
from layers.checking.verification import TOLERANCE
from layers.kernels.quantization import LARGEST, dequantize_rows, quantize_rows, widened
from layers.kernels.quantized_bag import quantized_bag
from layers.memory import Memory
from layers.spec import Step
from layers.tables.quantized_table import NORMAL_ROW_ERROR, QuantizedTable
from membench.case import Case
from membench.measuring import ceilings
from membench.measuring.memory import peak_bytes, reset_peak
from membench.measuring.time import Clock
from membench.planning.planner import make_plan
from membench.scenario.scenario import load_scenario

NAMES = ["int8", "float8_e4m3fn"]
FORMATS = [getattr(torch, name) for name in NAMES]
SMALL = {"model_dim": 64, "num_keys": 32**2, "heads": 2, "top_k": 8, "key_dim": 32, "dtype": "float32"}


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def uneven_rows(rows, columns):
    """Normal rows of very different sizes, one of them all zeros."""
    table = torch.randn(rows, columns) * 10.0 ** torch.randint(-30, 30, (rows, 1))
    table[rows // 2] = 0
    return table


@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
@pytest.mark.parametrize("columns", [1, 7, 100, 4096])
def test_every_number_is_rounded_to_the_nearest(columns, dtype, seed):
    torch.manual_seed(seed)
    table = uneven_rows(50, columns)
    kept = table.clone()
    quantized, scales = quantize_rows(table, dtype)
    assert torch.equal(table, kept) and quantized.dtype == dtype
    assert bool((quantized[25].float() == 0).all())
    off = (dequantize_rows(quantized, scales) - table.double()).abs()
    step = scales.double()[:, None]
    # half a step; of e4m3 that is 2^-4 of the number's power of two, but 2^-10 of the scale below 2^-6 of it
    float8 = torch.maximum(table.double().abs() / 16, step * 2.0**-10)
    allowed = step / 2 if dtype == torch.int8 else float8
    assert bool((off <= allowed * (1 + 1e-5)).all())
    assert bool((quantized.float().abs().amax(dim=1)[scales > 0] == LARGEST[dtype]).all())


@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
@pytest.mark.parametrize("columns", [256, 1024, 16384])
def test_the_stated_error_of_normal_rows(columns, dtype, seed):
    torch.manual_seed(seed)
    table = torch.randn(2**20 // columns, columns)
    error = relative_rms(dequantize_rows(*quantize_rows(table, dtype)), table.double())
    assert NORMAL_ROW_ERROR[dtype] * 0.7 < error < NORMAL_ROW_ERROR[dtype]
    if dtype == torch.int8:  # an even error over one step of the largest number's 127th
        largest = table.abs().amax(dim=1).double().square().mean().sqrt().item()
        assert error == pytest.approx(largest / 127 / math.sqrt(12), rel=0.02)


def test_all_codes_of_float8():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    numbers = ~codes.double().isnan()
    assert int(numbers.sum()) == 254
    assert torch.equal(widened(codes)[numbers].double(), codes.double()[numbers])


def test_what_cannot_be_quantized():
    with pytest.raises(ValueError, match=r"int8 or torch.float8_e4m3fn, not in torch.float16"):
        quantize_rows(torch.randn(3, 4), torch.float16)
    for wrong in (math.inf, math.nan):
        with pytest.raises(ValueError, match="not finite"):
            quantize_rows(torch.tensor([[1.0, wrong]]), torch.int8)


@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
@pytest.mark.parametrize("columns", [1, 7, 64, 100, 1000, 1100])
def test_bags_against_float64(columns, dtype, path, seed):
    torch.manual_seed(seed)
    table = torch.randn(60, columns) * torch.rand(60, 1)
    quantized, scales = quantize_rows(table, dtype)
    exact = dequantize_rows(quantized, scales)
    for tokens, lookups in [(1, 1), (1, 130), (5, 9), (700, 3), (0, 4), (4, 0)]:
        for result in (torch.float32, torch.bfloat16, torch.float16):
            rows = torch.randint(60, (tokens, lookups), dtype=torch.int32 if tokens % 2 else torch.int64)
            weights = (0.1 + torch.rand(tokens, lookups)).to(result)  # of tiny ones fp16 keeps few bits
            expected = (exact[rows] * weights.double()[..., None]).sum(dim=1)
            with poisoned_memory():
                bags = quantized_bag(quantized, scales, rows, weights, result)
            assert bags.dtype == result and bags.shape == (tokens, columns)
            assert not tokens or relative_rms(bags, expected) <= TOLERANCE[name_of(result)]
            assert torch.equal(bags, quantized_bag(quantized, scales, rows, weights, result))


def test_rows_past_the_two_billionth_number(path, seed):
    torch.manual_seed(seed)
    table = mapped(2**21 + 5, 1100, torch.int8)
    count = len(table)
    table[-3:] = torch.randint(-127, 128, (3, 1100), dtype=torch.int8)
    rows, weights = torch.tensor([[count - 1, count - 3, 0], [count - 2, 5, count - 2]]), torch.rand(2, 3)
    expected = (table[rows].double() * weights.double()[..., None]).sum(dim=1)
    assert relative_rms(quantized_bag(table, torch.ones(count), rows, weights, torch.float32), expected) < 1e-6


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_bags_of_one_token_shared_by_threads(threads, path, seed):
    torch.manual_seed(seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        table = torch.randn(20, 1500)
        quantized, scales = quantize_rows(table, torch.int8)
        rows, weights = torch.randint(20, (1, 603)), torch.rand(1, 603)
        expected = weights.double() @ dequantize_rows(quantized, scales)[rows[0]]
        assert relative_rms(quantized_bag(quantized, scales, rows, weights, torch.float32), expected) < 1e-6
    finally:
        torch.set_num_threads(before)


def test_rows_that_quantize_rows_did_not_make_are_refused():
    rows, weights = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"rows of torch.bfloat16"):
        quantized_bag(torch.zeros(3, 4, dtype=torch.bfloat16), torch.ones(3), rows, weights, torch.float32)
    with pytest.raises(ValueError, match=r"scales of torch.float16"):
        quantized_bag(torch.zeros(3, 4, dtype=torch.int8), torch.ones(3).half(), rows, weights, torch.float32)


def test_the_operator_is_well_declared():
    quantized, scales = quantize_rows(torch.randn(9, 20), torch.int8)  # opcheck itself knows no float8
    given = (quantized, scales, torch.randint(9, (3, 4)), torch.rand(3, 4), torch.bfloat16)
    torch.library.opcheck(torch.ops.membench.quantized_bag, given)


@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
def test_a_random_table_is_as_normal_rows_would_be(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    table = QuantizedTable.random(400, 300, dtype, std=0.25, generator=generator)
    rows = table.exact_rows(torch.arange(400))
    assert rows.std().item() == pytest.approx(0.25, rel=0.02)
    assert abs(rows.mean().item()) < 0.01
    assert len(rows.unique(dim=0)) == 400
    fourth = (rows / rows.std()).pow(4).mean().item()  # 3 for normal numbers; scales that differ raise it a little
    assert 2.85 < fourth < 3.2
    again = QuantizedTable.random(400, 300, dtype, std=0.25, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(table.weight.view(torch.int8), again.weight.view(torch.int8))
    assert torch.equal(table.scales, again.scales)


@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
def test_a_random_table_takes_no_more_memory_than_it_has(dtype):
    QuantizedTable.random(64, 64, dtype)  # what is loaded on first use
    reset_peak("cpu")
    before = peak_bytes("cpu", 0)["peak_process_bytes"]
    table = QuantizedTable.random(2**19, 512, dtype)
    grown = peak_bytes("cpu", 0)["peak_process_bytes"] - before
    assert table.weight.nbytes == 2**28
    assert grown < 1.3 * 2**28  # a bfloat16 twin would make it 3 times


@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
def test_a_layer_with_its_rows_rounded(dtype, seed):
    """The layer's output moves by about what its rows do."""
    torch.manual_seed(seed)
    layer = build(spec_from({"kind": "memory", **SMALL}), seed=seed)
    rounded = Memory(
        spec_from({"kind": "memory", **SMALL, "row_format": name_of(dtype)}),
        table=QuantizedTable.from_table(layer.table.weight, dtype),
    )
    rounded.load_state_dict({**rounded.state_dict(), "query": layer.query, "keys": layer.keys})
    x = tokens_for(layer.spec, 40)
    with torch.no_grad():
        error = relative_rms(rounded(x), layer(x).double())
    assert 0.2 * NORMAL_ROW_ERROR[dtype] < error < 1.5 * NORMAL_ROW_ERROR[dtype]


@pytest.mark.parametrize("row_format", NAMES)
@pytest.mark.parametrize("kind", ["memory", "memory_plus"])
def test_layers_against_the_reference(kind, row_format, path, seed):
    torch.manual_seed(seed)
    for dtype in ("float32", "bfloat16", "float16"):
        for change in ({}, {"value_dim": 7}, {"value_dim": 100, "companion_hidden": 64}):
            spec = spec_from({"kind": kind, **SMALL, "dtype": dtype, "row_format": row_format, **change})
            layer, x = build(spec, seed=seed), tokens_for(spec, 33, getattr(torch, dtype))
            found = verify(layer, x, gradients=False, seed=seed)
            assert found.failure is None, found
            assert (
                sum(p.nbytes for p in layer.parameters())
                == spec.cost(Step(1)).stored_bytes
                == spec.cost(Step(1)).memory.weights
            )


@pytest.mark.parametrize("imposed", [False, True])
def test_a_rank_share_against_the_reference(imposed, seed):
    torch.manual_seed(seed)
    spec = spec_from({"kind": "memory", **SMALL, "row_format": "int8"})
    layer, x = build(spec, ranks=4, seed=seed), tokens_for(spec, 16)
    routing = random_routing(spec, 16, 4, x.dtype, imposed=imposed)
    with torch.no_grad():
        found = verify(layer, x, routing, gradients=False, seed=seed)
    assert found.failure is None, found
    assert sum(p.nbytes for p in layer.parameters()) == spec.cost(Step(16, ranks=4)).memory.weights


def test_a_backward_is_refused_in_one_line():
    layer = build(spec_from({"kind": "memory", **SMALL, "row_format": "int8"}))
    with pytest.raises(RuntimeError, match="read, not trained"):
        layer(torch.randn(3, 64)).sum().backward()


def test_a_table_of_another_format_is_refused():
    spec = spec_from({"kind": "memory", **SMALL, "row_format": "int8"})
    with pytest.raises(ValueError, match=r"needs \(1024, 64\) of torch.int8"):
        Memory(spec, table=QuantizedTable.random(1024, 64, torch.float8_e4m3fn))


@pytest.mark.parametrize("row_format", NAMES)
def test_bytes_of_rows(row_format):
    same, small = (spec_from({"kind": "memory", **SMALL, "row_format": each}) for each in ("same", row_format))
    for cost in (small.cost(Step(20)), small.cost(Step(20, unique_rows=123.0, ranks=4))):
        (bag,) = [stage for stage in cost.stages if stage.name == "bag"]
        ranks = 4 if cost.unique_rows == 123.0 else 1
        assert bag.row_bytes_unique == cost.unique_rows * (64 // ranks + 4)
        assert bag.row_bytes_issued == cost.lookups * (64 // ranks + 4)
    assert same.cost(Step(20)).flops == small.cost(Step(20)).flops
    assert same.cost(Step(20)).params == small.cost(Step(20)).params
    assert same.cost(Step(1)).stored_bytes - small.cost(Step(1)).stored_bytes == 1024 * (4 * 64 - 64 - 4)


SCENARIO = """
schema_version: 1
name: small
model_dim: 64
arms:
  whole: {layer: memory, num_keys: 64^2, key_dim: 32}
  small: {layer: memory, key_dim: 32, row_format: int8, budgets: {stored_bytes: whole}}
workload: {modes: [forward, decode, forward_backward, train_step], optimizers: [row_adagrad]}
"""


def test_modes_with_a_backward_are_skipped_and_budgets_are_met(scenario_file):
    plan = make_plan(load_scenario(scenario_file(SCENARIO)))
    small = [planned for planned in plan.cases if planned.case.arm == "small"]
    reasons = {planned.case.mode: planned.skipped for planned in small}
    assert reasons["forward"] is None and reasons["decode"] is None
    for mode in ("forward_backward", "train_step"):
        assert reasons[mode] == "rows in int8 are read, not trained: take a mode without gradients"
    spec = small[0].case.layer
    assert spec.num_keys > 64**2
    assert spec.cost(Step(1)).stored_bytes == pytest.approx(plan.cases[0].stored_bytes, rel=0.01)
    assert all(planned.labels == ["int8 rows"] for planned in small)


def test_ids_tell_formats_apart_and_old_ones_stay():
    specs = [spec_from({"kind": "memory", **SMALL, "row_format": each}) for each in ("same", "int8", "float8_e4m3fn")]
    ids = [Case(arm="memory", mode="decode", layer=spec, tokens=8).id for spec in specs]
    assert len(set(ids)) == 3
    # as it was before rows had formats
    spec = spec_from({"kind": "memory_plus", "model_dim": 64, "num_keys": 1024, "key_dim": 32})
    assert Case(arm="m", mode="forward", layer=spec, tokens=8).id == "146d2cc06a721b47"


@pytest.mark.parametrize("columns", [64, 7])
@pytest.mark.parametrize("dtype", FORMATS, ids=name_of)
def test_the_ceiling_of_random_rows_is_measured(dtype, columns, monkeypatch):
    monkeypatch.setattr(ceilings, "_ROW_READ_BYTES", 2**20)
    table = QuantizedTable.random(20_000, columns, dtype)
    assert 1e6 < ceilings.random_row_ceiling(Clock("cpu"), table.weight) < 1e12
