"""What tests share: small scenarios, seeds that a failure names."""

import os
import secrets
import sys
from pathlib import Path

import pytest
from timing import VirtualTime

# How wide output is, tests say themselves; a process that knows its terminal hands its width down to ours.
os.environ.pop("COLUMNS", None)
# Threads that wait give their core away: tests share the cores with each other. Before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

if not torch.cuda.is_available():
    # Importing layers imports Triton, which decides then whether its kernels are interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")
elif share := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Processes that test side by side share one card: what one allocates too much fails in that one.
    torch.cuda.set_per_process_memory_fraction(0.9 / share)

# Hundreds of processes are started: where Python is told to keep no bytecode, each would compile all of ours anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests make repositories: they must not get the index and the folders of a hook that runs the tests.
for name in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[name]

HERE = Path(__file__).parent


@pytest.fixture
def seed(request):
    """A fresh seed, printed when the test fails; MEMBENCH_TEST_SEED repeats one."""
    value = int(os.environ.get("MEMBENCH_TEST_SEED") or secrets.randbelow(2**31))
    request.node.add_report_section("call", "seed", f"MEMBENCH_TEST_SEED={value}")
    return value


@pytest.fixture(params=["torch", "native"])
def path(request):
    """Both ways a CPU has to compute an operator, one after the other."""
    from layers.kernels import paths

    if request.param == "native" and not paths.has_native():
        pytest.skip("no C++ compiler")
    with paths.forced(request.param):
        yield request.param


@pytest.fixture
def matrix_units(monkeypatch):
    """Shapes of what a CPU multiplies in place of a GPU's units: operands must be bf16, and sums are fp32."""
    from layers.kernels import wide_products

    shapes = []

    def multiplied(x, matrix):
        assert x.dtype == matrix.dtype == torch.bfloat16
        shapes.append(tuple(x.shape))
        return x.float() @ matrix.float()

    monkeypatch.setattr(wide_products, "can_multiply", lambda keys: keys.dtype == torch.bfloat16)
    monkeypatch.setattr(wide_products, "_multiplied", multiplied)
    return shapes


@pytest.fixture
def restored_threads():
    """A test may set how many threads torch has."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def virtual_time(monkeypatch):
    """What the instrument reads its times from, instead of the machine's clock."""
    clock = VirtualTime()
    for module in (
        "measuring.time",
        "measuring.in_step",
        "measuring.retaking",
        "measuring.paced",
        "profiler.stage_clock",
        "profiler.stage_times",
    ):
        monkeypatch.setattr(f"membench.{module}.time", clock)
    return clock


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls membench in this process, in an empty folder; (exit code, standard output, standard error)."""
    from membench.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["membench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def scenario_file(tmp_path):
    """Writes a scenario's YAML and returns its path."""

    def write(text: str, name: str = "small.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def outside_layers(monkeypatch):
    """Makes ``outside_layers:…`` factories importable in worker processes too."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(str(HERE))
