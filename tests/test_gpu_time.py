"""What a launch is predicted to take: each bound by hand, on figures of machine code that are given."""

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")

from membench.machine.datasheet import parse_hardware
from membench.planning.predicted_hardware import MULTIPROCESSORS
from membench.profiler.launches import gpu_time
from membench.profiler.launches.gpu_time import host_ms, predict
from membench.profiler.launches.tracing import Launched
from membench.profiler.launches.work import Gather, Work
from membench.profiler.machine_code.code_key import CodeKey, code_key
from membench.profiler.machine_code.figures import Figures, nearest, recorded

H100, H200 = parse_hardware("h100").entry, parse_hardware("h200").entry
KERNEL_MS = 3e-3
CODE = CodeKey("bag", "", 1024)


def launched(work, programs=None):
    return Launched("x", "bag", False, work, CODE if programs else None, programs)


def without_kernel(found):
    return found.ms - KERNEL_MS


@pytest.fixture
def figures(monkeypatch):
    given = Figures(4, 64, 32, 65536, instructions=1000, loop_instructions=500)
    monkeypatch.setattr(gpu_time, "nearest", lambda key: given)
    return given


def test_streamed_bytes_take_nine_tenths_of_published_bandwidth():
    found = predict(launched(Work(3.35e9)), H100)
    assert without_kernel(found) == pytest.approx(1 / 0.9)
    assert found.limit == "DRAM"
    assert without_kernel(predict(launched(Work(3.35e9)), H200)) == pytest.approx(3.35 / 4.8 / 0.9)


def test_flops_take_a_share_of_the_rate_of_their_dtype():
    found = predict(launched(Work(0.0, flops=989.4e9, rate="bfloat16")), H100)
    assert without_kernel(found) == pytest.approx(1 / 0.66) and found.limit == "FLOPs"
    assert predict(launched(Work(0.0, flops=989.4e9)), H100).ms > 10 * found.ms, "fp32 without TF32"


def test_rows_that_a_cache_holds_are_read_at_its_rate():
    twice = Work(0.0, (Gather(reads=10e6, distinct=1e4, row_bytes=2048),))
    found = predict(launched(twice), H100)
    assert found.limit == "L2"
    assert found.ms < predict(launched(Work(twice.moved_bytes)), H100).ms
    assert predict(launched(Work(0.0, (Gather(10e6, 9e6, 2048),))), H100).limit == "DRAM"


def test_programs_that_wait_one_trip_after_the_other_are_bound_by_latency(figures):
    programs, at_once = 132 * 8 * 100, 132 * 8
    found = predict(launched(Work(0.0, trips=33), programs), H100)
    assert without_kernel(found) == pytest.approx(1e3 * 1e-6 * 33 * programs / at_once)
    assert found.limit == "latency"
    alone = predict(launched(Work(0.0, trips=33), 1), H100)
    assert without_kernel(alone) == pytest.approx(33e-3)


def test_instructions_are_one_a_clock_of_each_scheduler(figures):
    programs, clock_hz = 132 * 1000, 66.9e12 / (132 * 256) * 0.9
    found = predict(launched(Work(0.0, trips=0, turns=11), programs), H100)
    assert without_kernel(found) == pytest.approx(1e3 * 1000 * 4 * (1000 + 10 * 500) / 4 / clock_hz)
    assert found.limit == "instructions"
    half = predict(launched(Work(0.0, trips=0, turns=11, live=0.5), programs), H100)
    assert without_kernel(half) == pytest.approx(without_kernel(found) / 2)


def test_every_kernel_and_every_launch_has_a_cost_of_its_own():
    assert predict(launched(Work(0.0, kernels=5)), H100).ms == pytest.approx(5 * KERNEL_MS)
    assert host_ms([launched(Work(0.0))] * 10) == pytest.approx(0.15)


@pytest.mark.parametrize("key", MULTIPROCESSORS)
def test_all_that_are_offered_are_predicted(key):
    work = Work(1e9, flops=1e9, rate="tfloat32")
    assert predict(launched(work, programs=1000), parse_hardware(key).entry).ms > 0


def test_machine_code_is_known_by_what_is_compiled_into_it():
    assert code_key("short_runs", {"OPTIMIZER": "row_adam", "COLUMNS": 512}) == ("short_runs", "row_adam", 512)
    assert code_key("short_runs", {"OPTIMIZER": None, "COLUMNS": 512}) == ("short_runs", "", 512)
    assert code_key("_quantized_bag", {"FLOAT8": True, "COLUMNS": 64}).variant == "float8"
    assert code_key("_product_key_top_k", {"SUB_KEYS": 1024, "TOP_K": 16}) == ("_product_key_top_k", "16", 1024)


def test_of_a_width_that_nobody_compiled_the_next_one_counts():
    known = recorded()
    for key in (CodeKey("bag", "", 1000), CodeKey("bag", "", 1100), CodeKey("bag", "another", 1024)):
        assert nearest(key) == known[CodeKey("bag", "", 1024)]
    assert nearest(CodeKey("bag", "", 2**20)) == known[CodeKey("bag", "", max(k.size for k in known if k[0] == "bag"))]
    assert nearest(CodeKey("another", "", 1024)) is None
