"""The C++ kernels: compiled once, kept, and done without where they cannot be had."""

import os
import subprocess
import sys

import pytest

from layers.kernels import cpp_build, paths

needs_compiler = pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")

# A training step of every layer that uses the kernels, and how it was computed.
SCRIPT = """
import torch
from layers import build, spec_from
from layers.kernels import paths
from layers.optim.layer_optimizer import LayerOptimizer

for kind in ("memory", "peer"):
    sizes = {"num_keys": 4096, "model_dim": 16, "heads": 2, "top_k": 4, "key_dim": 8}
    layer = build(spec_from({"kind": kind, "dtype": "float32", **sizes}))
    optimizer = LayerOptimizer(layer, "row_adagrad")
    x = torch.randn(5, 16, requires_grad=True)
    with optimizer.fused():
        layer(x).sum().backward()
    optimizer.step()
    assert x.grad.isfinite().all() and layer.tables()[0].weight.isfinite().all()
print(paths.has_native(), paths.path_of(x))
try:
    paths.forced("native").__enter__()
except ValueError as error:
    print(error)
"""


def compiler(folder, on_source):
    """A compiler that has a version, and does what is told when given sources."""
    script = folder / "compiler"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {{ echo 1; exit 0; }}\n{on_source}\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def small_source(tmp_path, monkeypatch):
    """Instead of the kernels, a source that is compiled in a moment; kept in a folder of its own."""
    (tmp_path / "sources").mkdir()
    content = 'extern "C" const char *membench_instruction_sets() { return "small"; }\n'
    (tmp_path / "sources/small.cpp").write_text(content)
    monkeypatch.setattr(cpp_build, "_SOURCES", tmp_path / "sources")
    monkeypatch.setenv("MEMBENCH_CACHE", str(tmp_path / "cache"))


def test_a_layer_trains_where_the_kernels_do_not_compile(tmp_path):
    failing = compiler(tmp_path, "echo 'In file included' >&2; echo 'x.cpp:1: error: no such luck' >&2; exit 1")
    environment = {**os.environ, "CXX": failing, "MEMBENCH_CACHE": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "False torch" and "needs Linux and a C++ compiler" in run.stdout
    warned = [line for line in run.stderr.splitlines() if "UserWarning" in line]
    assert len(warned) == 1 and warned[0].endswith("torch's take their place: x.cpp:1: error: no such luck")
    assert not list((tmp_path / "cache").iterdir())  # nothing half made is left


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CXX", "no-such-compiler"),
        ("CXX", "a quote that 'does not close"),
        ("CXX", "{folder}/compiler"),  # compiles to nothing
        ("CXX", "sh -c 'echo >&2; exit 1'"),  # says nothing
        ("MEMBENCH_CACHE", "{folder}/compiler/cache"),  # a folder inside a file
    ],
)
def test_what_cannot_be_had_is_done_without(variable, value, tmp_path, monkeypatch):
    compiler(tmp_path, "exit 0")
    monkeypatch.setenv("MEMBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv(variable, value.format(folder=tmp_path))
    with pytest.warns(UserWarning, match="C\\+\\+ kernels cannot be used, torch's take their place: .+"):
        assert cpp_build.kernels.__wrapped__().library is None


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3", "--version ended with exit code 3 and not a word"),
        ("echo a compiler", "ended well and made nothing"),
    ],
)
def test_a_compiler_that_says_nothing_is_told_in_words(script, says, tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("MEMBENCH_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match="torch's take their place"):
        assert cpp_build.kernels.__wrapped__().missing == f"{compiler} {says}"


@pytest.mark.skipif(cpp_build.library() is None, reason="no working C++ compiler")
def test_without_a_path_the_compiler_still_finds_its_linker(small_source, monkeypatch):
    monkeypatch.delenv("PATH")
    monkeypatch.delenv("CXX", raising=False)
    found = cpp_build.kernels.__wrapped__()
    assert (found.missing, found.instruction_sets) == (None, ("small",))


def test_no_compiler_at_all_is_no_reason_to_warn(monkeypatch, recwarn):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert cpp_build.kernels.__wrapped__().library is None and not recwarn


@needs_compiler
def test_what_is_compiled_is_kept(monkeypatch):
    def fail(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(cpp_build, "_compile", fail)
    assert cpp_build.kernels.__wrapped__().library is not None


@needs_compiler
def test_what_is_kept_by_halves_is_compiled_again(small_source):
    """Loading such a file would end the process."""
    kept = cpp_build._cache_folder() / f"kernels-{fingerprint()}.so"
    cpp_build._compile(cpp_build._compiler(), sorted(cpp_build._SOURCES.glob("*.cpp")), kept)
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert cpp_build.kernels.__wrapped__().library is not None
    assert kept.stat().st_size > len(whole) // 2


def fingerprint():
    return cpp_build._fingerprint(cpp_build._compiler(), sorted(cpp_build._SOURCES.glob("*.cpp")))


@needs_compiler
def test_a_cache_may_be_relative(tmp_path, monkeypatch):
    for kept in cpp_build._cache_folder().glob(f"kernels-{fingerprint()}.*"):
        (tmp_path / kept.name).write_bytes(kept.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMBENCH_CACHE", ".")
    monkeypatch.setattr(cpp_build, "_compile", None)  # not needed
    assert cpp_build.kernels.__wrapped__().library is not None


@needs_compiler
def test_another_compiler_options_or_source_is_another_library(tmp_path):
    (source := tmp_path / "kernel.cpp").write_text("int x;")
    command = cpp_build._compiler()
    before = cpp_build._fingerprint(command, [source])
    assert cpp_build._fingerprint(command, [source]) == before
    assert cpp_build._fingerprint([*command, "-O0"], [source]) != before
    source.write_text("int y;")
    assert cpp_build._fingerprint(command, [source]) != before
