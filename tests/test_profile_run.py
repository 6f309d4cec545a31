"""``membench profile`` in real processes: every kind, failures, traces."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("outside_layers")

SMALL = ["--dim", "64", "--tokens", "32", "--dtype", "fp32", "--device", "cpu"]
MEMORY = ["--layer", "memory", "--keys", "112^2", "--key-dim", "32", "--top-k", "8", *SMALL]


def profile(*words):
    done = subprocess.run([sys.executable, "-m", "membench", "profile", *words], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def found(*words):
    done = profile(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["profile"]


def labels(mode):
    return [row["label"] for row in mode["stages"]]


def test_memory_against_dense_with_everything_it_can_write(tmp_path):
    pictures = [str(tmp_path / f"roof{suffix}") for suffix in (".html", ".svg")]
    words = [*MEMORY, "--against", "dense", "--mode", "train_step", "--trace", str(tmp_path / "trace")]
    made = tmp_path / "made"
    result = found(*words, "--roofline", pictures[0], "--roofline", pictures[1], "--output", str(made))
    (file,) = made.iterdir()
    assert json.loads(file.read_text())["profile"] == result
    memory, dense = result["layers"]
    (mode,) = memory["modes"]
    assert {"query", "scores", "top_k", "bag", "bag backward", "update", "rest"} <= set(labels(mode))
    assert labels(dense["modes"][0])[:2] == ["up", "down"]
    assert sum(row["time_ms"] for row in mode["stages"]) == pytest.approx(mode["observed_ms"])
    assert mode["reference"]["errors"]["output"] < 1e-5
    assert mode["step_ms"] > 0
    assert mode["kernels"][0]["time_ms"] > 0
    assert mode["next_stage"]["label"] in labels(mode)
    assert memory["ceilings"]["random_row_bytes_per_s"] > 0
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("roof.html", "roof.svg"))
    _check_trace(tmp_path / "trace", mode)


def _check_trace(folder, mode):
    """The plugin's own reader finds the run with its steps; the trace it shows has the stages as named ranges."""
    pytest.importorskip("torch_tb_profiler")
    from torch_tb_profiler.consts import WORKER_PATTERN
    from torch_tb_profiler.profiler.data import RunProfileData

    (path,) = (folder / "memory_train_step").iterdir()
    assert WORKER_PATTERN.match(path.name).group(1) == "memory_train_step"
    read = RunProfileData.parse("memory_train_step", None, str(path), None)
    assert read.steps_names == ["1", "2", "3"]
    chrome = folder / "memory_train_step.chrome_trace.json"
    for shown in (read.trace_file_path, chrome):
        events = json.loads(Path(shown).read_text())["traceEvents"]
        ranges = {event["name"] for event in events if event.get("cat") == "user_annotation"}
        assert {row["label"] for row in mode["stages"]} - {"rest"} <= ranges


def test_a_mixture_has_its_stages():
    result = found("--layer", "moe", "--experts", "8", "--expert-hidden", "64", "--top-k", "2", *SMALL)
    forward, both = result["layers"][0]["modes"]
    assert labels(forward) == ["router", "dispatch", "experts", "combine", "rest"]
    assert {"experts backward", "combine backward", "router backward"} <= set(labels(both))
    assert forward["stages"][1]["flops"] is None
    assert forward["stages"][2]["flops"] == 32 * 2 * 6 * 64 * 64


def test_a_layer_from_outside_is_one_stage():
    result = found("--layer", "outside_layers:good", *SMALL)
    forward, both = result["layers"][0]["modes"]
    assert labels(forward) == ["layer", "rest"]
    assert forward["stages"][0]["flops"] == 2 * 32 * 64 * 64
    assert labels(both)[:2] == ["layer", "layer backward"]
    assert both["stages"][1]["flops"] == 4 * 32 * 64 * 64
    assert forward["reference"] is None


def test_one_rank_of_four():
    done = profile(*MEMORY, "--ranks", "4", "--mode", "forward")
    assert done.returncode == 0, done.stderr
    assert "One rank's share of a 4-way" in done.stdout
    assert "one rank of P = 4" in done.stderr
    assert "Next, memory forward:" in done.stdout


@pytest.mark.parametrize(("factory", "status"), [("raises", "error"), ("killed", "oom")])
def test_a_layer_that_fails_is_told_and_exits_5(factory, status):
    done = profile("--layer", f"outside_layers:{factory}", "--mode", "forward", *SMALL)
    assert done.returncode == 5
    assert f"Not profiled: {factory} forward: {status}" in done.stdout


def test_a_wrong_answer_is_not_profiled():
    wrong = ["--layer", "outside_layers:wrong", "--set", "options.fault=returns_a_tuple"]
    done = profile(*wrong, "--mode", "forward", *SMALL)
    assert done.returncode == 5
    assert "wrong answer (eager): forward returned tuple, not a tensor (32, 64)" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layer", "memory", "--keys", "128M"], "--keys: '128M' keys is no square"),
        (["--layer", "memory", "--heads", "four"], "--heads"),
        (["--layer", "memory", "--output", "x.json"], "--output: x.json ends like a file name"),
        (["--layer", "memory", "--roofline", "x.pdf"], "--roofline: x.pdf should end with"),
        (["--layer", "memory", "--trace", "/proc/nowhere"], "--trace /proc/nowhere"),
        (["--layer", "memory", "--device", "tpu"], "--device"),
        (["--keys", "1M"], "--layer"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words, says):
    done = profile(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
