"""What one GPU session does, in order, and how much of the time each part may have."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.wheels import ROOT

KINDS = ("dense", "moe", "memory", "memory_plus", "peer")
_UNIFORM = "axes.workload.routing=[{kind: uniform}]"
# Fewer points than the scenarios have, so that a box of seconds holds them: at most 16 measurements each.
_OPERATORS = {
    "op_bag": [_UNIFORM, "axes.zip=[{model_dim: [512, 1024], every_arm.num_keys: [256K, 64K]}]"],
    "op_top_k": ["axes.zip=[{every_arm.num_keys: [1024^2, 4096^2], every_arm.top_k: [32, 32]}]"],
    "op_experts": [_UNIFORM],
    "op_expert_rows": [_UNIFORM],
}


@dataclass(frozen=True, slots=True)
class Part:
    """One command.

    Attributes:
        seconds: its share of the time: what is left is divided among the parts to come in these proportions.
        output: the result file that its standard output is; None: it goes into the log.
        skipped: why it cannot run here; None: it runs.
    """

    name: str
    command: list[str]
    seconds: float
    output: str | None = None
    skipped: Callable[[], str | None] = field(default=lambda: None)


def parts(device: str, results: Path, packages: Path) -> list[Part]:
    """Every part for a device. On a CPU sizes are tiny: it tries the way.

    Args:
        results: a folder for result files.
        packages: a folder for packages that this Python lacks.
    """
    gpu = device == "cuda"
    return [
        _module("packages", "benchmarks.gpu.wheels", [str(packages)], 30),
        *(
            [_tests("gpu tests", marked_files(), 110, 8, "-m", "gpu")]
            if gpu
            else [_tests("tests", ["tests/test_units.py"], 30, 1)]
        ),
        _membench("doctor", ["doctor", "--device", device, "--json"], 40, "doctor.json"),
        _module(
            "clock check",
            "benchmarks.clock_check",
            ["--device", device, "--turns", "5" if gpu else "1", "--json"],
            35,
            "clock_check.json",
        ),
        *(
            _run(name, device, results, 24, [*points, *_operator_sizes(name, gpu)])
            for name, points in _OPERATORS.items()
        ),
        *([_one_of_each(device, results, 110, _layer_sizes(gpu))] if gpu else []),
        _run(
            "quickstart", device, results, 20 if gpu else 60, ["measure.max_seconds=0.2"] if gpu else _layer_sizes(gpu)
        ),
        _run("decode" if gpu else "decode_small_rows", device, results, 45, _decode_sizes(gpu)),
        *(_profile(kind, device) for kind in KINDS),
        _module("training sizes", "benchmarks.gpu.training_sizes", [device], 30, "training_sizes.jsonl"),
        *([_dram(results)] if gpu else []),
        *([_tests("triton tests", sorted(_names("test_triton_*.py")), 40, 8)] if gpu else []),
    ]


def marked_files() -> list[str]:
    """Test files that hold tests of a GPU: only these are collected, so no other's imports matter."""
    return [name for name in sorted(_names("test_*.py")) if "mark.gpu" in (ROOT / name).read_text()]


def _names(pattern: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob(pattern)]


def _tests(name: str, files: list[str], seconds: float, processes: int, *words: str) -> Part:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        str(processes),
        "--timeout",
        "60",
        "-p",
        "no:cacheprovider",
        *words,
        *files,
    ]
    return Part(name, command, seconds)


def _module(name: str, module: str, words: list[str], seconds: float, output: str | None = None) -> Part:
    return Part(name, [sys.executable, "-m", module, *words], seconds, output)


def _membench(name: str, words: list[str], seconds: float, output: str | None = None) -> Part:
    return _module(name, "membench", words, seconds, output)


def _run(scenario: str, device: str, results: Path, seconds: float, settings: list[str]) -> Part:
    return _membench(Path(scenario).stem, _words_of_run(scenario, device, results, settings), seconds)


def _words_of_run(scenario: str, device: str, results: Path, settings: list[str]) -> list[str]:
    words = ["run", scenario, "--device", device, "--output", str(results)]
    return words + [word for setting in ["measure.rounds=1", *settings] for word in ("--set", setting)]


def _operator_sizes(name: str, gpu: bool) -> list[str]:
    tokens = "axes.workload.tokens" if name == "op_experts" else "workload.tokens"
    if not gpu:
        return [f"{tokens}={[8] if name == 'op_experts' else 8}", "measure.max_seconds=0.02"]
    sizes = [1024, 16384] if name == "op_experts" else 16384
    dtype = [] if name == "op_top_k" else ["dtype=bfloat16"]  # scores are float32 everywhere
    return [f"{tokens}={sizes}", *dtype, "measure.max_seconds=0.1", "measure.warmup_seconds=0.05"]


def _layer_sizes(gpu: bool) -> list[str]:
    if not gpu:
        return ["workload.tokens=8", "measure.max_seconds=0.02"]
    return ["measure.max_seconds=0.3", "measure.warmup_seconds=0.1"]


def _decode_sizes(gpu: bool) -> list[str]:
    if not gpu:
        return ["measure.max_seconds=0.02"]
    return ["measure.max_seconds=0.1", "measure.warmup_seconds=0.05"]


def _one_of_each(device: str, results: Path, seconds: float, settings: list[str]) -> Part:
    file = results / "iso_flop_8b.yaml"
    words = [str(file), *_words_of_run(str(file), device, results, settings)]
    return _module(file.stem, "benchmarks.gpu.one_of_each", words, seconds)


def _profile(kind: str, device: str) -> Part:
    sizes = [] if device == "cuda" else ["--dim", "64", "--dtype", "fp32"]
    if device == "cpu" and kind not in ("dense", "moe"):
        sizes += ["--keys", "1K"]
    return _membench(
        f"profile {kind}",
        ["profile", "--layer", kind, "--device", device, *sizes, "--json"],
        10,
        f"profile_{kind}.json",
    )


def _dram(results: Path) -> Part:
    words = ["--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    words += ["--metrics", "dram__bytes_read.sum,dram__bytes_write.sum"]
    program = [sys.executable, "-m", "benchmarks.gpu.bag_bytes", str(results / "bag_bytes.json")]
    return Part(
        "dram counters",
        ["ncu", *words, *program],
        25,
        "dram_counters.csv",
        lambda: None if shutil.which("ncu") else "no ncu on the PATH",
    )
