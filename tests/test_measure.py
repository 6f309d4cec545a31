"""The instrument, on steps whose time is known."""

import time
from types import SimpleNamespace

import pytest
import torch

from layers import build, spec_from
from layers.spec import PRESETS, DenseSpec, Step
from membench.case import Case
from membench.machine.energy import EnergyCounter
from membench.measuring import ceilings, memory
from membench.measuring.inputs import make_inputs, pool_size
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.step import make_step
from membench.measuring.time import Clock, Pass, Sampling, sample, warm_up
from membench.measuring.traffic import count_traffic


def test_a_known_time_is_measured(virtual_time):
    found = sample(Clock("cpu"), lambda _: virtual_time.sleep(0.004), Sampling(12, 5, 5, 0.02))
    assert found.seconds == pytest.approx([0.004] * 12)
    assert found.stopped_by == "samples"
    assert found.calls_per_sample == 1
    assert found.warmup_calls == 5
    assert found.steady


def test_real_time_is_measured():
    found = sample(Clock("cpu"), lambda _: time.sleep(0.004), Sampling(12, 5, 5, 0.02))
    assert min(found.seconds) >= 0.004


def test_short_calls_are_bundled(virtual_time):
    found = sample(Clock("cpu"), lambda _: virtual_time.sleep(1e-6), Sampling(5, 5, 5, 0.01))
    assert found.calls_per_sample == 500
    assert found.seconds == pytest.approx([1e-6] * 5)


def test_a_pass_is_timed_as_its_calls(virtual_time):
    seen = []
    step = Pass(4, lambda i: (seen.append(i), virtual_time.sleep(5e-5)))
    found = sample(Clock("cpu"), step, Sampling(5, 5, 5, 0.0))
    assert found.seconds == pytest.approx([1.25e-5] * 5)
    assert found.calls_per_sample == 40, "ten passes are a sample's half millisecond"
    assert found.warmup_calls == 4 * (len(seen) - 5 * 10)


def test_time_stops_but_not_below_the_floor(virtual_time):
    found = sample(Clock("cpu"), lambda _: virtual_time.sleep(0.01), Sampling(1000, 4, 0.001, 0.0))
    assert found.stopped_by == "time"
    assert len(found.seconds) == 4
    found = sample(Clock("cpu"), lambda _: virtual_time.sleep(0.01), Sampling(1000, 4, 0.095, 0.0))
    assert len(found.seconds) == 10


def test_warm_up_waits_for_a_slow_start(virtual_time):
    calls = iter([0.02, 0.02, 0.02, 0.01, 0.005] + [0.002] * 1000)
    made, steady, fastest_s = warm_up(Clock("cpu"), lambda _: virtual_time.sleep(next(calls)), 0.05)
    assert (made, steady) == (9, True)  # three of the fast calls after the first of them
    assert fastest_s == pytest.approx(0.002)


def test_inputs_are_visited_in_turn():
    seen = []
    sample(Clock("cpu"), seen.append, Sampling(3, 3, 1, 0.0))
    assert seen == list(range(len(seen)))


def a_case(kind, tokens=16, ranks=1, routing=None, mode="forward", **layer):
    spec = spec_from({"kind": kind, "model_dim": 32, "dtype": "float32", **layer})
    return Case(arm=kind, mode=mode, layer=spec, tokens=tokens, ranks=ranks, routing=routing or {})


MEMORY = {"num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8}
MOE = {"num_experts": 8, "expert_hidden": 16, "top_k": 2}


def test_a_round_of_inputs_passes_four_times_the_cache():
    case, cache_bytes = a_case("memory", **MEMORY), 50_000
    count = pool_size(case, cache_bytes)
    tokens = 16 * 32 * 4
    rows = case.layer.expected_rows(16, 0.0) * 32 * 4
    shared = 4 * case.layer.layer_params
    assert shared + count * (tokens + rows) >= 4 * cache_bytes > shared + (count - 1) * (tokens + rows)
    assert pool_size(case, 0) == 2
    assert pool_size(case, 2**40) == 256


def test_a_block_that_flushes_the_cache_by_itself_needs_few_inputs() -> None:
    block = PRESETS["91m"].block_around(DenseSpec(model_dim=768, ffn_hidden=2048))
    case = Case(arm="dense", level="block", mode="prefill", layer=block, tokens=4, sequences=1)
    weights = block.cost(case.step()).params * 2
    assert pool_size(case, weights // 2) == 2 and pool_size(case, weights - 1) == 4  # of 4x the cache
    assert pool_size(case, 2 * weights) == 256  # that stays in the cache: its tokens alone must not


def test_a_train_step_leaves_the_weights_alone():
    for optimizer in ("adamw", "row_adagrad", "sgd"):
        case = a_case("memory", mode="train_step", **MEMORY).model_copy(update={"optimizer": optimizer})
        layer = build(case.layer)
        before = [p.clone() for p in layer.parameters()]
        measurement = CaseMeasurement(layer, Clock("cpu"), 2**16, lambda doing: None)
        found = measurement.run(case, Sampling(3, 3, 0.1, 0.0), ["eager"])
        assert min(found["samples_s"]) > 0
        assert all(torch.equal(p, old) for p, old in zip(layer.parameters(), before, strict=True))
        stated = case.layer.cost(Step(16, mode="train_step", optimizer=optimizer)).memory
        assert found["memory"]["optimizer_bytes"] == stated.optimizer


def test_inputs_are_seeded_and_differ():
    case = a_case("memory", routing={"kind": "uniform"}, **MEMORY)
    layer = build(case.layer)
    first, second = make_inputs(layer, case, 2, "cpu")
    again = make_inputs(layer, case, 2, "cpu")
    assert torch.equal(first.x, again[0].x)
    assert torch.equal(first.routing.selected, again[0].routing.selected)
    assert not torch.equal(first.x, second.x)
    assert first.x.abs().min() > 0


def test_traffic_is_counted_exactly():
    case = a_case("memory", routing={"kind": "uniform"}, **MEMORY)
    layer = build(case.layer)
    inputs = make_inputs(layer, case, 3, "cpu")
    found = count_traffic(layer, inputs)
    assert found.lookups == 16 * 2 * 4
    distinct = [len(set(i.routing.selected.flatten().tolist())) for i in inputs]
    assert found.unique_rows == sum(distinct) / 3
    assert found.unique_per_lookup == pytest.approx(found.unique_rows / found.lookups)


def test_expert_traffic_of_one_rank():
    case = a_case("moe", ranks=4, routing={"kind": "zipf", "zipf_exponent": 1.5}, **MOE)
    layer = build(case.layer, ranks=4)
    inputs = make_inputs(layer, case, 2, "cpu")
    found = count_traffic(layer, inputs)
    assert found.assignments >= 16 * 2  # the most loaded rank has at least the mean
    assert found.active_experts <= 2
    assert found.dropped_tokens == 0


def test_expert_choice_counts_dropped_tokens():
    case = a_case("moe", choice="expert", capacity_factor=0.5, **MOE)
    layer = build(case.layer)
    inputs = make_inputs(layer, case, 1, "cpu")
    chosen = set(layer.select(inputs[0].x).indices.flatten().tolist())
    assert count_traffic(layer, inputs).dropped_tokens == 16 - len(chosen)


def test_a_trace_is_replayed_and_checked(tmp_path):
    import numpy as np

    path = tmp_path / "trace.npy"
    trace = np.random.default_rng(0).integers(0, 1024, (40, 2, 4))
    np.save(path, trace)
    case = a_case("memory", routing={"kind": "trace", "trace": str(path)}, **MEMORY)
    layer = build(case.layer)
    inputs = make_inputs(layer, case, 3, "cpu")
    assert torch.equal(inputs[1].routing.selected, torch.from_numpy(trace[16:32]))
    assert torch.equal(inputs[2].routing.selected[8:], torch.from_numpy(trace[:8]))
    np.save(path, trace + 1024)
    with pytest.raises(ValueError, match="must lie in 0"):
        make_inputs(layer, case, 1, "cpu")
    np.save(path, trace[:, :1])
    with pytest.raises(ValueError, match="wants integers T x 2 x 4"):
        make_inputs(layer, case, 1, "cpu")
    path.write_text("no array")
    with pytest.raises(ValueError, match="not a readable"):
        make_inputs(layer, case, 1, "cpu")


def test_expert_choice_refuses_imposed_routing():
    case = a_case("moe", choice="expert", routing={"kind": "uniform"}, **MOE)
    with pytest.raises(ValueError, match="expert choice"):
        make_inputs(build(case.layer), case, 1, "cpu")


def test_forward_backward_leaves_every_gradient():
    case = a_case("memory_plus", mode="forward_backward", companion_hidden=16, **MEMORY)
    layer = build(case.layer).train()
    inputs = make_inputs(layer, case, 2, "cpu")
    step = make_step("forward_backward", layer, layer, inputs, torch.randn(16, 32), None)
    step(0)
    table = layer.table
    assert table.gradient is not None
    assert table.weight.grad is None
    assert all(p.grad is not None for p in layer.parameters() if p is not table.weight)
    dense = sum(4 * p.numel() for p in layer.parameters() if p is not table.weight)
    rows = table.gradient.rows.nbytes + table.gradient.values.nbytes
    assert memory.gradient_bytes(layer) == dense + rows


def test_saved_activations_of_a_product_are_its_operands():
    layer = torch.nn.Linear(64, 32, bias=False)
    wrapped = SimpleNamespace(parameters=layer.parameters)
    x = torch.randn(128, 64, requires_grad=True)
    with memory.SavedForBackward(wrapped) as saved:
        layer(x)
    assert saved.bytes == x.nbytes


def test_ceilings_are_plausible():
    clock = Clock("cpu")
    copied, read = ceilings.stream_ceilings(clock, 2**20)
    rows = ceilings.random_row_ceiling(clock, torch.randn(2**18, 64))
    flops = ceilings.matmul_ceiling(clock, torch.float32)
    assert 1e8 < rows < 1e12
    assert 1e8 < copied < 1e13
    assert 1e8 < read < 1e13
    assert 1e9 < flops < 1e14


def test_a_library_without_code_for_a_dtype_multiplies_small_matrices_alone(monkeypatch):
    """A processor without bf16 products took most of a minute for such a ceiling."""
    sizes = []

    def slow(a, b):
        sizes.append(len(a))
        time.sleep(0.05)
        return a @ b

    monkeypatch.setattr(ceilings, "linear", slow)
    monkeypatch.setattr(ceilings, "_MATMUL_SIZES", {"cpu": (128,)})
    monkeypatch.setattr(ceilings, "_SMALL_MATRIX", 16)
    assert ceilings.matmul_ceiling(Clock("cpu"), torch.float32) > 0
    assert set(sizes) == {16}


def test_energy_is_unknown_without_a_counter(monkeypatch, tmp_path):
    monkeypatch.setattr("membench.machine.energy._RAPL", tmp_path)
    counter = EnergyCounter("cpu")
    assert counter.source is None
    assert counter.spent_j([], []) is None


def test_energy_counts_and_unwraps(monkeypatch, tmp_path):
    domain = tmp_path / "intel-rapl:0"
    (tmp_path / "intel-rapl:0:0").mkdir(parents=True)
    domain.mkdir()
    (domain / "max_energy_range_uj").write_text("5000000")
    (domain / "energy_uj").write_text("4000000")
    monkeypatch.setattr("membench.machine.energy._RAPL", tmp_path)
    counter = EnergyCounter("cpu")
    before = counter.read()
    assert before == [4.0]
    (domain / "energy_uj").write_text("4500000")
    assert counter.spent_j(before, counter.read()) == pytest.approx(0.5)
    (domain / "energy_uj").write_text("1000000")
    assert counter.spent_j(before, counter.read()) == pytest.approx(2.0)


def test_a_compiled_layer_is_checked_and_the_fastest_is_taken():
    case = a_case("dense", mode="forward", ffn_hidden=64)
    measurement = CaseMeasurement(build(case.layer), Clock("cpu"), 2**16, lambda doing: None)
    found = measurement.run(case, Sampling(3, 3, 0.1, 0.0), ["eager", "compiled", "cuda_graph"])["implementation"]
    assert found["tried"]["eager"]["error"] is None
    assert found["tried"]["compiled"]["error"] is None
    assert "needs a CUDA device" in found["tried"]["cuda_graph"]["error"]
    times = {name: tried["latency_ms"] for name, tried in found["tried"].items() if tried["latency_ms"]}
    assert found["chosen"] == min(times, key=times.get)


def test_of_long_calls_two_are_warm_enough(virtual_time):
    assert warm_up(Clock("cpu"), lambda _: virtual_time.sleep(1.5), 0.3)[:2] == (2, True)
    calls = iter([2.0, 1.0, 1.0])
    assert warm_up(Clock("cpu"), lambda _: virtual_time.sleep(next(calls)), 0.6)[:2] == (3, True)
