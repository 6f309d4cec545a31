"""The record says what ran: paths, compiler, instruction sets, threads, quotas, settings; said once, and compared."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gate_results import a_file, a_record, side
from test_records import a_case, a_round

from layers import build, spec_from
from layers.kernels import cpp_build as native
from layers.kernels import paths
from layers.kernels.row_passes import weighted_bag
from membench.gate.comparison import compare_files
from membench.gate.outcome import outcome_of
from membench.gate.result_set import LoadedResult
from membench.gate.thresholds import Thresholds
from membench.gate.verdicts import Verdict
from membench.machine import device
from membench.machine.conditions import announcements, conditions, ran, what_is_slow
from membench.measuring import diagnosis
from membench.planning.planner import make_plan
from membench.results.conditions import conditions_differ, other_conditions
from membench.results.metrics import flags_of
from membench.results.records import Record, Round, read_result
from membench.running import run as running
from membench.scenario.scenario import load_scenario

needs_compiler = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
MISSING = "g++: not found"
NATIVE = {
    "path": "native",
    "fallback": None,
    "compiler": "g++ 12",
    "kernels_instruction_sets": ["avx2"],
    "torch_instruction_set": "AVX2",
    "threads": 2,
    "cpu_quota_cores": None,
    "settings": {},
    "variables": {},
    "paths": {"row_passes": "native"},
}
FALLEN = {
    **NATIVE,
    "path": "torch",
    "fallback": MISSING,
    "compiler": None,
    "kernels_instruction_sets": None,
    "paths": {"row_passes": "torch"},
}
DENSE = {"paths": {}}


# What the compiler is, or why there is none.


def script(folder, text):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def kernels():
    with pytest.warns(UserWarning, match=r"C\+\+ kernels cannot be used"):
        return native.kernels.__wrapped__()


def test_a_compiler_that_hangs_is_ended_and_not_asked_by_every_process(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_VERSION_SECONDS", 0.3)
    monkeypatch.setenv("MEMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", script(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60 & wait"))
    assert "did not end within 0.3 s" in kernels().missing
    time.sleep(0.1)
    started = int((tmp_path / "pid").read_text())
    assert not [p for p in os.listdir("/proc") if p.isdigit() and lives_in(p, started)]  # nor what it started
    monkeypatch.setattr(native, "_output", None)
    assert "it is tried again an hour later" in kernels().missing
    monkeypatch.undo()
    (kept,) = (tmp_path / "cache").iterdir()
    os.utime(kept, (0, 0))
    monkeypatch.setenv("MEMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", script(tmp_path, "exit 1"))
    assert "did not end" not in kernels().missing


def lives_in(process, group):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(state[2]) == group and state[0] != "Z"


def test_a_compiler_reads_nothing_of_ours():
    """A worker's job comes by standard input."""
    assert native._output(["readlink", "/proc/self/fd/0"], 5).strip() == "/dev/null"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CXX", "/nowhere/g++ -O1", "/nowhere/g++: not found"),
        ("CXX", "{folder}/compiler", "unrecognized command-line option '-std=c++17'"),
        ("MEMBENCH_CACHE", "{folder}/compiler/cache", "the cache {folder}/compiler/cache cannot be written"),
    ],
)
def test_why_there_are_no_kernels(variable, value, says, tmp_path, monkeypatch):
    complaint = "error: unrecognized command-line option '-std=c++17'"
    old = script(tmp_path, f'[ "$1" = --version ] && echo old 3.4 || {{ echo "{complaint}" >&2; exit 1; }}')
    monkeypatch.setenv("CXX", old)
    monkeypatch.setenv("MEMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(variable, value.format(folder=tmp_path))
    found = kernels()
    assert says.format(folder=tmp_path) in found.missing and "\n" not in found.missing
    assert found.compiler == (None if "nowhere" in value else "old 3.4")


def test_no_compiler_is_installed(monkeypatch):
    monkeypatch.setenv("CXX", " ")
    monkeypatch.setenv("PATH", "/nowhere")
    assert native.kernels.__wrapped__().missing == "no C++ compiler is installed (c++, g++ or clang++)"


@needs_compiler
def test_a_cache_from_which_nothing_may_be_run(tmp_path, monkeypatch):
    def not_mapped(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(ctypes, "CDLL", not_mapped)
    assert "holds what cannot be loaded" in kernels().missing


@needs_compiler
def test_the_instruction_sets_are_those_compiled_to(tmp_path):
    known = native.kernels().instruction_sets
    if "avx2" not in known:
        pytest.skip("options of x86")
    target, source = tmp_path / "x.so", native._SOURCES / "instruction_sets.cpp"
    native._output([*native._compiler(), *native._FLAGS, "-mno-avx2", str(source), "-o", str(target)], 60)
    narrow = ctypes.CDLL(str(target)).membench_instruction_sets
    narrow.restype = ctypes.c_char_p
    assert "avx2" not in narrow().decode().split() and "avx" in narrow().decode().split()


# Which path each operator took.


def test_each_operator_says_its_path(path):
    sizes = {"num_keys": 1024, "model_dim": 16, "heads": 2, "top_k": 4, "key_dim": 8}
    layer = build(spec_from({"kind": "memory", "dtype": "float32", **sizes}))
    paths.forget_taken()
    layer(torch.randn(5, 16)).sum().backward()
    assert paths.taken() == {"lookups": path, "row_passes": path, "top_k": path}


@needs_compiler
def test_what_the_kernels_cannot_do_says_that_torch_did():
    table, rows = torch.randn(8, 16).t(), torch.zeros(2, 3, dtype=torch.int64)
    with paths.forced("native"):
        paths.forget_taken()
        weighted_bag(table, rows, torch.ones(2, 3))
        assert paths.taken() == {"row_passes": "native+torch"}
        assert paths.fallback("cpu") is None


def test_experts_of_many_rows_are_a_loop_on_a_cpu():
    layer = build(
        spec_from(
            {"kind": "moe", "dtype": "float32", "model_dim": 16, "num_experts": 4, "expert_hidden": 8, "top_k": 2}
        )
    )
    paths.forget_taken()
    layer(torch.randn(500, 16))
    assert paths.taken()["grouped_matmul"] == "loop"


# Settings, variables, threads.


def test_settings_that_are_not_as_usual():
    assert conditions("cpu")["settings"] == {}
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True)
    try:
        found = conditions("cpu")["settings"]
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
    assert found == {"float32_matmul_precision": "high", "deterministic_algorithms": "on"}


def test_variables_and_threads_in_effect(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    monkeypatch.setenv("PYTHONTRACEMALLOC", "1")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # what is compiled runs eagerly, and nothing says so
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # of no consequence on a CPU
    found = ran("cpu")
    assert found["variables"]["ONEDNN_MAX_CPU_ISA"] == "AVX2" and "TRITON_INTERPRET" not in found["variables"]
    assert found["variables"]["TORCHDYNAMO_DISABLE"] == "1"
    assert found["threads"] == 1
    slow = what_is_slow(found, 2)
    assert {"ONEDNN_MAX_CPU_ISA=AVX2", "OMP_THREAD_LIMIT=1", "PYTHONTRACEMALLOC=1"} <= set(slow)
    assert "1 thread in effect, not 2" in slow
    assert found["torch_instruction_set"]


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (0.5, 1), (1.0, 1), (2.9, 2), (16.0, 4)])
def test_threads_are_no_more_than_a_quota_feeds(quota, threads, monkeypatch):
    monkeypatch.setattr(device, "usable_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(device, "cpu_quota", lambda: quota)
    assert device.default_threads() == threads


# Said once.


def test_what_will_be_slower_is_said():
    say = f"no working C++ compiler ({MISSING}): memory and peer run on torch's path, two to three times slower; "
    said = announcements(FALLEN, ["memory", "peer", "memory"], 2, None)
    assert len(said) == 1 and said[0].startswith(say)
    assert announcements(FALLEN, [], 2, None) == announcements(NATIVE, ["memory"], 2, None) == []
    cache = {**FALLEN, "fallback": "the cache /x cannot be written: Read-only file system"}
    assert "MEMBENCH_CACHE" in announcements(cache, ["memory"], 2, None)[0]
    triton = {**FALLEN, "fallback": "the triton package is not installed"}
    assert announcements(triton, ["memory"], 2, None)[0].endswith("install triton")
    quota = {**NATIVE, "cpu_quota_cores": 1.5, "settings": {"torch": "a debug build"}}
    assert announcements(quota, [], 4, None) == [
        "a CPU quota of 1.5 of 4 cores: 1 thread",
        "torch runs with torch a debug build",
    ]
    assert announcements(quota, [], 4, 2)[0] == "a CPU quota of 1.5 of 4 cores: 2 threads, throttled"


def test_a_line_is_said_once(scenario_file, monkeypatch):
    monkeypatch.setattr(running, "_told", set())
    arms = "arms: {memory: {layer: memory, num_keys: 1K, key_dim: 16, top_k: 4}}\nworkload: {tokens: 8}\n"
    scenario = load_scenario(scenario_file(f"schema_version: 1\nname: small\nmodel_dim: 64\n{arms}"), ())
    plan = make_plan(scenario, available_bytes=10**10)
    environment = {"conditions": FALLEN, "host": {"cores": 2}}
    assert [len(running.slower_here(plan, environment, scenario)) for _ in range(2)] == [1, 0]


def test_a_fallback_is_flagged():
    record = Record(id="x", case=a_case(), status="ok", rounds=[a_round(threads=2, ran=FALLEN)])
    assert f"on torch's path, two to three times slower: {MISSING}" in flags_of(record)
    record.rounds = [a_round(threads=2, ran={**NATIVE, "cpu_quota_cores": 1.5})]
    assert "throttled: a CPU quota of 1.5 cores for 2 threads" in flags_of(record)
    record.rounds = [a_round(threads=1, ran={**NATIVE, "cpu_quota_cores": 0.5})]
    assert "throttled: a CPU quota of 0.5 cores for 1 thread" in flags_of(record)
    record.rounds.append(a_round(1, threads=2, ran=FALLEN))
    assert "not every round took the same path" in flags_of(record)
    record.rounds = [a_round(threads=2, ran={**FALLEN, "paths": {}})]  # dense asks for no compiler
    assert not [flag for flag in flags_of(record) if "path" in flag]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({**FALLEN, "memory_limit_bytes": 3e9}, ["torch (g++: not found)", "-", "-", "AVX2", "2", "none", "3 GB"]),
        ({**NATIVE, "cpu_quota_cores": 1.5, "settings": {"onednn": "off"}}, ["native", "g++ 12", "avx2", "onednn=off"]),
    ],
)
def test_doctor_shows_it(found, shown):
    from membench.cli.doctor import _conditions

    told = [str(value or "-") for _, value in _conditions({"memory_limit_bytes": None, **found})]
    assert [each for each in told if each in shown] == shown


def test_doctor_says_why_memory_layers_are_slow():
    cpu = {"device": {"type": "cpu", "cache_bytes": 1}, "host": {"huge_pages": "always"}}
    assert MISSING in diagnosis._unknown({**cpu, "conditions": FALLEN})["the fast path of operators"]
    assert "the fast path of operators" not in diagnosis._unknown({**cpu, "conditions": NATIVE})


# Compared.


def measured(conditions_, threads=2, rounds=8, seconds=0.004, **more):
    record = a_record([seconds] * rounds, **more)
    known = [r.model_copy(update={"ran": conditions_, "threads": threads}) for r in record.rounds]
    return record.model_copy(update={"rounds": known})


@pytest.mark.parametrize(
    ("base", "head", "says"),
    [
        (NATIVE, FALLEN, f"path of operators: native in the baseline, torch now ({MISSING})"),
        (FALLEN, NATIVE, f"path of operators: torch in the baseline ({MISSING}), native now"),
        ({}, FALLEN, "in the new file, and the other does not say"),
        (FALLEN, {}, "in the baseline, and the other does not say"),
        ({}, NATIVE, None),
        (NATIVE, {}, None),
        ({}, {}, None),
        (FALLEN, FALLEN, None),
        (FALLEN, {**FALLEN, "fallback": "another reason"}, None),
        (NATIVE, {**NATIVE, "compiler": "g++ 13"}, None),  # as another version of torch: what one wants to see
        (NATIVE, {**NATIVE, "paths": {"row_passes": "torch"}}, None),  # the code's own doing
        ({**NATIVE, **DENSE}, {**FALLEN, **DENSE}, None),  # nothing that has paths
        (NATIVE, {**NATIVE, "kernels_instruction_sets": ["avx"]}, "kernels: avx2 in the baseline, avx now"),
        (NATIVE, {**NATIVE, "torch_instruction_set": "DEFAULT"}, "torch: AVX2 in the baseline, DEFAULT now"),
        (NATIVE, {**NATIVE, "threads": 1}, "threads: 2 in the baseline, 1 now"),
        (NATIVE, {**NATIVE, "cpu_quota_cores": 1.5}, "CPU quota: none that binds in the baseline, 1.5 cores now"),
        (NATIVE, {**NATIVE, "cpu_quota_cores": 2.0}, None),
        (NATIVE, {**NATIVE, "settings": {"onednn": "off"}}, "settings of torch: none in the baseline, onednn=off now"),
        (NATIVE, {**NATIVE, "variables": {"LD_PRELOAD": "x.so"}}, "variables: none in the baseline, LD_PRELOAD=x.so"),
        (NATIVE, {"path": 3, "paths": [1], "settings": [], "threads": "x", "cpu_quota_cores": {}}, None),
    ],
)
def test_what_may_not_be_held_against_each_other(base, head, says):
    found = conditions_differ(measured(base), measured(head))
    assert found is None if says is None else says in (found or "")


def test_threads_of_files_from_before_are_known():
    assert conditions_differ(measured({}, threads=2), measured({}, threads=1)) == "threads: 2 in the baseline, 1 now"
    assert conditions_differ(measured({}, threads=None), measured(NATIVE)) is None


def compared(base, head):
    return compare_files(*(LoadedResult(Path(n), f) for n, f in (("b", base), ("h", head))), Thresholds())


def code(found):
    return outcome_of([found], strict=False, advisory=False).exit_code


def test_other_paths_are_never_gated():
    """One line and exit code 4 where nothing else is there; a refusal of the case where something is."""
    slow = measured(FALLEN, seconds=0.012)
    found = compared(a_file([measured(NATIVE)]), a_file([slow]))
    assert code(found) == 4
    assert (
        found.incomparable
        == f"measured under other conditions: path of operators: native in the baseline, torch now ({MISSING})"
    )
    assert found.cases[0].worst.verdict is Verdict.INCOMPARABLE
    dense = {**NATIVE, **DENSE}, {**FALLEN, **DENSE}
    found = compared(
        a_file([measured(NATIVE), measured(dense[0], tokens=9)]),
        a_file([slow, measured(dense[1], tokens=9, seconds=0.012)]),
    )
    assert {case.worst.verdict for case in found.cases} == {Verdict.INCOMPARABLE, Verdict.SLOW}
    assert code(found) == 1
    found = compared(
        a_file([measured(NATIVE), measured(dense[0], tokens=9)]), a_file([slow, measured(dense[1], tokens=9)])
    )
    assert outcome_of([found], strict=False, advisory=False).line == (
        "no regression, 1 inconclusive, 1 of them measured under other conditions"
    )
    assert outcome_of([found], strict=True, advisory=False).exit_code == 3


def test_counts_are_gated_all_the_same():
    found = compared(a_file([measured(NATIVE)]), a_file([measured(FALLEN, cost={"flops": 3e6})]))
    assert code(found) == 1


def test_a_path_that_a_revision_lost_is_a_regression_of_an_ab():
    base = a_file([measured(NATIVE, rounds=10)], pair=side("base"))
    head = a_file([measured(FALLEN, rounds=10, seconds=0.012)], pair=side("head"))
    assert compared(base, head).cases[0].worst.verdict is Verdict.SLOW


def test_a_run_goes_on_only_as_it_began():
    assert other_conditions(NATIVE, FALLEN) == f"path of operators: native then, torch now ({MISSING})"
    assert other_conditions(None, FALLEN) is None  # of a journal from before it was asked for
    assert other_conditions(NATIVE, dict(NATIVE)) is None


def test_old_files_stay_readable():
    assert "ran" not in Round.model_json_schema().get("required", [])
    assert a_round().ran == {}


def test_a_run_without_a_compiler_says_so_once(scenario_file, tmp_path):
    """Standard error, environment, every round, the table's notes; with nothing kept from before."""
    path = scenario_file("""
schema_version: 1
name: small
model_dim: 16
dtype: float32
arms: {memory: {layer: memory, num_keys: 64, key_dim: 8, top_k: 2, heads: 1}}
workload: {tokens: 2, modes: [forward]}
measure: {rounds: 1, min_samples: 2, floor_samples: 1, max_seconds: 0.1, warmup_seconds: 0, retake_seconds: 0}
""")
    environment = {**os.environ, "CXX": "/nowhere/g++", "MEMBENCH_CACHE": str(tmp_path / "cache")}
    words = ["run", path, "--output", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "membench", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "C++" in line]
    assert said.startswith("membench: no working C++ compiler (/nowhere/g++: not found): memory runs on torch's path")
    assert "on torch's path" in " ".join(done.stdout.split())
    (kept,) = (tmp_path / "out").glob("*.json")
    result = read_result(kept)
    assert result.environment["conditions"]["fallback"] == "/nowhere/g++: not found"
    (record,) = result.cases
    (found,) = record.rounds
    assert found.ran["path"] == "torch" and found.ran["paths"] == {"row_passes": "torch", "top_k": "torch"}
    assert found.ran["threads"] == found.threads and found.ran["torch_instruction_set"]
