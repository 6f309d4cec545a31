"""The whole way, in real processes: measured, checked, failed, killed, resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import interruptible
import pytest
from timing import once_in, processes_take_less_than
from typer.testing import CliRunner

from membench.cli import app
from membench.machine.disturbance import CPU_SIGNALS
from membench.results.ranking import comparable_groups
from membench.results.records import read_result

pytestmark = pytest.mark.usefixtures("outside_layers")

# As short as a round can be: on cores that tests share, most samples would be taken again.
QUICK = """
measure:
  {rounds: %d, min_samples: 5, floor_samples: 2, max_seconds: 0.2, warmup_seconds: 0.02, retake_seconds: 0}
"""
SMALL = (
    """
schema_version: 1
name: small
model_dim: 64
dtype: float32
arms:
%s
workload: {tokens: 16, modes: [%s], optimizers: [row_adagrad]}
"""
    + QUICK
)
KINDS = """
  dense: {layer: dense, ffn_hidden: 128}
  memory: {layer: memory, num_keys: 4K, key_dim: 32, top_k: 8}
  memory_plus: {layer: memory_plus, num_keys: 4K, key_dim: 32, top_k: 8, companion_hidden: 64}
  moe: {layer: moe, num_experts: 8, expert_hidden: 64, top_k: 2, shared_hidden: 64}
  moe_expert_choice: {layer: moe, num_experts: 8, expert_hidden: 64, top_k: 2, choice: expert}
  peer: {layer: peer, num_keys: 4K, key_dim: 32, top_k: 4, heads: 2}
"""


def one_result(folder):
    (path,) = folder.glob("*.json")
    return read_result(path)


def run(*words):
    done = subprocess.run([sys.executable, "-m", "membench", *words], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_every_kind_in_every_mode(scenario_file, tmp_path):
    path = scenario_file(SMALL % (KINDS, "forward, forward_backward, train_step, prefill, decode", 1))
    out, retaken = tmp_path / "out", ("--set", "measure.retake_seconds=0.05")
    done = run("run", path, "--output", str(out), "--device", "cpu", "--json", "--set", "measure.pacer=true", *retaken)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)["results"][0]["result"]
    result = one_result(out)
    assert printed == json.loads(next(out.glob("*.json")).read_text())
    assert len(result.cases) == 30
    assert {r.status for r in result.cases} == {"ok"}, [(r.case.arm, r.reason) for r in result.cases]
    for record in result.cases:
        (found,) = record.rounds
        assert len(found.samples_s) == 5 or found.sampling["stopped_by"] in ("time", "disturbance")
        assert set(found.disturbance["shares"]) == set(CPU_SIGNALS)
        flagged = any(flag.startswith("disturbed in round 1") for flag in record.flags)
        assert flagged == (found.disturbance["kept_samples"] > 0)
        assert min(found.samples_s) > 0
        assert len(found.pacer["samples_s"]) == len(found.samples_s)
        assert found.pacer["amounts"]["products"] > 0
        assert found.reference["errors"]["output"] <= 1e-5
        assert ("x" in found.reference["errors"]) == (record.case.mode in ("forward_backward", "train_step"))
        assert record.metrics["latency_ms_p50"] > 0
        assert found.cost["params"] == found.cost["rank_params"]
        assert found.memory["weights_bytes"] == 4 * found.cost["params"]
        sparse = record.case.layer.kind in ("memory", "memory_plus", "peer")
        assert (record.metrics["unique_per_lookup"] is not None) == sparse
        assert not found.cost["is_expectation"]
    assert not list(out.glob("*.partial.jsonl"))


def test_one_rank_of_several(scenario_file, tmp_path):
    wanted = ("  dense:", "  memory:", "  moe:")
    split = "\n".join(line for line in KINDS.splitlines() if line.startswith(wanted))
    text = SMALL % (split, "forward, forward_backward", 1)
    path = scenario_file(text + "fit: {policy: rank, ranks: 4, link_gb_s: 10}\n")
    out = tmp_path / "out"
    done = run("run", path, "--output", str(out), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    result = one_result(out)
    assert result.run.ranks == 4
    assert "4-way" in done.stdout
    assert [each.compared_at for each in result.answers] == list(comparable_groups(result.cases))
    assert {each.no_order for each in result.answers} == {"one round"}
    for record in result.cases:
        assert record.status == "ok", record.reason
        assert record.metrics["step_ms"] > record.metrics["latency_ms_p50"] or (
            record.case.layer.kind == "dense" and record.case.mode == "forward"
        )
        if record.case.layer.kind == "memory":
            assert record.rounds[0].traffic["lookups"] == 4 * 16 * 4 * 8


def test_failures_are_recorded_and_the_run_goes_on(scenario_file, tmp_path):
    arms = "".join(
        f"  {name}: {{layer: 'outside_layers:{name}', budgets: {{}}}}\n"
        for name in ("good", "raises", "hangs", "killed", "greedy", "no_module", "missing")
    )
    arms += "  wrong: {layer: 'outside_layers:wrong', options: {fault: misses_a_column}}\n"
    once = ", ".join(f"{{arm: {name}, mode: decode}}" for name in ("hangs", "greedy", "no_module", "missing", "wrong"))
    text = SMALL % (arms, "forward, decode", 1) + f"axes: {{exclude: [{once}]}}\n"
    path = scenario_file(text.replace("warmup_seconds: 0.02", "warmup_seconds: 0.02, timeout_seconds: 30"))
    out = tmp_path / "out"
    done = run("run", path, "--output", str(out), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    found = {(r.case.arm, r.case.mode): r for r in one_result(out).cases}
    assert found["good", "forward"].status == "ok"
    assert found["good", "decode"].status == "ok"
    assert any("unchecked" in flag for flag in found["good", "forward"].flags)
    assert found["good", "forward"].rounds[0].cost["params"] == 64 * 64
    assert found["good", "decode"].rounds[0].cost["flops"] == 2 * 16 * 64 * 64
    for mode in ("forward", "decode"):
        assert found["raises", mode].status == "error"
        assert "lost" in found["raises", mode].reason
        assert found["killed", mode].status == "oom"
    assert found["hangs", "forward"].status == "timeout"
    assert found["greedy", "forward"].status == "oom"
    assert "not a torch.nn.Module" in found["no_module", "forward"].reason
    assert "missing" in found["missing", "forward"].reason
    assert found["wrong", "forward"].status == "error"
    assert found["wrong", "forward"].reason == "wrong answer (eager): y has shape (16, 63), not (16, 64); not timed"


def test_nothing_measured_is_exit_code_5(scenario_file, tmp_path):
    path = scenario_file(SMALL % ("  lost: {layer: 'outside_layers:raises'}", "forward", 1))
    assert run("run", path, "--output", str(tmp_path / "out"), "--device", "cpu").returncode == 5


def start_slow(scenario_file, out, rounds=2):
    """A run of several rounds, stopped as soon as one round is on disk."""
    path = scenario_file(SMALL % ("  slow: {layer: 'outside_layers:slow'}", "forward", rounds))
    process = interruptible.start(
        [sys.executable, "-m", "membench", "run", path, "--output", str(out), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        journals = list(out.glob("*.partial.jsonl"))
        if journals and journals[0].read_text().count("\n") >= 2:
            return path, process
        time.sleep(0.05)
    raise AssertionError("no round was finished")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_resumed(scenario_file, tmp_path, how):
    out = tmp_path / "out"
    path, process = start_slow(scenario_file, out)
    if how == signal.SIGKILL:
        os.killpg(process.pid, how)
    else:
        os.kill(process.pid, how)
    _, stderr = process.communicate(timeout=120)
    if how == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert "Traceback" not in stderr
        partial = one_result(out)
        assert partial.run.interrupted
        assert len(partial.cases[0].rounds) == 1
    (journal,) = out.glob("*.partial.jsonl")
    kept = [json.loads(line)["round"] for line in journal.read_text().splitlines()[1:]]
    done = run("run", path, "--output", str(out), "--device", "cpu", "--resume")
    assert done.returncode == 0, done.stderr
    rounds = one_result(out).cases[0].rounds
    assert [r.number for r in rounds] == [0, 1]
    assert rounds[0].samples_s == kept[0]["samples_s"]
    assert rounds[0].started == kept[0]["started"]
    assert one_result(out).run.resumed >= one_result(out).run.started
    assert not list(out.glob("*.partial.jsonl"))


def test_resume_without_anything_to_resume(scenario_file, tmp_path):
    path = scenario_file(SMALL % (KINDS, "forward", 1))
    done = run("run", path, "--output", str(tmp_path), "--device", "cpu", "--resume")
    assert done.returncode == 2
    assert "no interrupted run" in done.stderr


def test_routing_is_imposed_and_counted(scenario_file, tmp_path):
    arms = """
  memory: {layer: memory, num_keys: 4K, key_dim: 32, top_k: 8}
  moe: {layer: moe, num_experts: 8, expert_hidden: 64, top_k: 2}
"""
    text = SMALL % (arms, "forward_backward", 1)
    text = text.replace("tokens: 16,", "tokens: 64,")
    path = scenario_file(text + "axes: {workload.routing: [{kind: uniform}, {kind: zipf, zipf_exponent: 1.5}]}\n")
    out = tmp_path / "out"
    assert run("run", path, "--output", str(out), "--device", "cpu").returncode == 0
    found = {(r.case.arm, r.case.routing.kind): r for r in one_result(out).cases}
    assert {r.status for r in found.values()} == {"ok"}

    def metric(name, arm, kind):
        return found[arm, kind].metrics[name]

    assert metric("unique_per_lookup", "memory", "zipf") < metric("unique_per_lookup", "memory", "uniform")
    load = "expert_load_max_over_mean"
    assert metric(load, "moe", "zipf") > metric(load, "moe", "uniform")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "iso_flop_9b"], "iso_flop_8b"),
        (["run", "quickstart", "--device", "tpu"], "tpu"),
        (["run", "quickstart", "--set", "workload.tokens"], "key=value"),
        (["run", "quickstart", "--output", "/proc/nothing"], "cannot be written"),
        (["doctor", "--device", "gpu"], "gpu"),
        (["plan"], "SCENARIO"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(words, says):
    done = run(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_cuda_that_is_not_there():
    done = run("run", "quickstart", "--device", "cuda")
    assert done.returncode == 2
    assert "--device cuda" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_schema_and_list_speak_json():
    for command in ("schema", "list"):
        done = CliRunner().invoke(app, [command, "--json"])
        assert done.exit_code == 0
        json.loads(done.stdout)


def test_help_is_fast():
    def check():
        with processes_take_less_than(0.5):
            run("--help")

    once_in(8, check)
