"""membench as others have it: a wheel, in a folder that they may not write, without HOME, git, compiler or checkout."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(
        not find_spec("hatchling") or not find_spec("hatch_fancy_pypi_readme"), reason="needs hatchling"
    ),
]

TINY = """
schema_version: 1
name: tiny
model_dim: 64
arms: {dense: {layer: dense, ffn_hidden: 64}}
workload: {tokens: 8, modes: [forward]}
measure: {rounds: 1, max_seconds: 0.1, retake_seconds: 0}
"""
ONE_SET_OF_MODULES = """
import layers.spec.cost, layers.kernels.cpp_build, membench.layers, membench.layers.spec.cost
from layers import build, spec_from
assert layers is membench.layers and layers.spec.cost is membench.layers.spec.cost
assert layers.kernels.cpp_build is membench.layers.kernels.cpp_build
build(spec_from({"kind": "dense", "model_dim": 64, "ffn_hidden": 64}))
print(membench.__file__, layers.__file__, sep="\\n")
"""


def build(target, source, folder):
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def files_of(folder):
    """Every file below a folder of the checkout, by its name from there; a link to a folder is not followed."""
    return {
        str(Path(at, name).relative_to(folder))
        for at, _, names in os.walk(folder)
        for name in names
        if not at.endswith("__pycache__")
    }


def content_of(wheel):
    with zipfile.ZipFile(wheel) as packed:
        return {name: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    found = {name for name in content_of(wheel) if ".dist-info/" not in name}
    wanted = {f"membench/{name}" for name in files_of(ROOT / "membench")}
    wanted |= {f"membench/layers/{name}" for name in files_of(ROOT / "layers")}
    wanted |= {f"membench/scenarios/{name}" for name in files_of(ROOT / "scenarios")}
    assert found == wanted | {"layers/__init__.py"}
    assert {Path(name).suffix for name in found} >= {".cpp", ".yaml", ".css", ".js"}  # not Python alone


def test_the_sdist_makes_the_same_wheel(wheel, unpacked, tmp_path):
    assert content_of(build("wheel", unpacked, tmp_path)) == content_of(wheel)


def test_the_sdist_holds_what_its_tests_read(unpacked):
    for name in (".github", "tests", "results", "docs", "benchmarks", "scenarios", "layers"):
        here = {file for file in files_of(ROOT / name) if not file.endswith(".partial.jsonl")}
        assert files_of(unpacked / name) == here
    assert files_of(unpacked / "membench") == files_of(ROOT / "membench") | {
        f"layers/{name}" for name in files_of(ROOT / "layers")
    }
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-lowest.txt", ".ci/run", "LICENSE"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_index_page_has_no_link_that_leads_nowhere(wheel):
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = (name for name in packed.namelist() if name.endswith("dist-info/METADATA"))
        page = packed.read(metadata).decode()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert [link for link in links if link.startswith("https://")]
    assert not [link for link in links if not link.startswith("https://")]
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (link in page and (ROOT / link.partition("#")[0]).exists()), link


@pytest.fixture(scope="module")
def another_user():
    """A Python of this version, and what makes ``subprocess.run`` start it as nobody: root could write anywhere."""
    mine, name = (sys.executable, {}), f"python3.{sys.version_info.minor}"
    if os.geteuid() != 0:
        return mine
    nobody = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
    for python in filter(None, [sys.executable, shutil.which(name, path="/usr/local/bin:/usr/bin")]):
        reach = f"import sys; sys.path[:0] = {packages()}; import typer, torch.version"
        try:
            if subprocess.run([python, "-c", reach], capture_output=True, **nobody).returncode == 0:
                return python, nobody
        except PermissionError:
            continue
    return mine


def packages():
    """Where the packages of this environment lie; the checkout is not among them."""
    return [path for path in sys.path if path.endswith("-packages")]


@pytest.fixture(scope="module")
def installed(wheel, another_user):
    """A virtual environment with the wheel, in a folder that nobody else may write."""
    folder = Path(tempfile.mkdtemp(prefix="membench größe & platz "))
    folder.chmod(0o755)
    venv = folder / "venv"
    subprocess.run([another_user[0], "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(packages()))
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)],
        check=True,
    )
    for path in [site, *site.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files_of(site)
    yield venv / "bin"
    after = files_of(site)
    for path in [site, *(path for path in site.rglob("*") if path.is_dir())]:
        path.chmod(0o755)
    shutil.rmtree(folder)
    assert after == before


@pytest.fixture
def ask(installed, another_user):
    """Calls what is installed from an empty folder of the caller's, with nothing in the environment."""
    with tempfile.TemporaryDirectory(prefix="membench leer ") as folder:
        Path(folder).chmod(0o777)

        def call(program, *words, **environment):
            done = subprocess.run(
                [installed / program, *words],
                **{**another_user[1], "cwd": folder},
                env={"PATH": folder, **environment},
                capture_output=True,
                text=True,
                encoding="utf-8",
            )
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
            return done.stdout, Path(folder)

        yield call


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--help"], "profile"), (["list"], "iso_flop_8b"), (["plan", "iso_flop_8b"], "moe_top8"), (["schema"], "$defs")],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_of_the_installed_wheel(ask, words, says):
    said, folder = ask("membench", *words)
    assert says in said
    assert not list(folder.iterdir())


def test_both_names_are_one_set_of_modules_in_the_wheel(ask, installed):
    said, _ = ask("python", "-c", ONE_SET_OF_MODULES)
    assert all(line.startswith(str(installed.parent)) for line in said.splitlines()), said


@pytest.mark.slow
def test_the_installed_wheel_measures_under_python_O(ask):
    _, folder = ask("python", "-c", f"open('tiny.yaml', 'w').write('''{TINY}''')")
    said, _ = ask("python", "-O", "-m", "membench", "run", "tiny.yaml", "--json", PYTHONOPTIMIZE="1")
    (case,) = json.loads(said)["results"][0]["result"]["cases"]
    assert case["status"] == "ok"
    (result,) = (folder / "results").glob("tiny_*.json")
    assert "nogit" in result.name
    ask("python", "-O", "-m", "membench", "report", str(result), "--output", "page.html")
    assert (folder / "page.html").stat().st_size > 10_000
