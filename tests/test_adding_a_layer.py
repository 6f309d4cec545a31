"""``docs/adding_a_layer.md`` does what it says: its kind is added to a copy of the project, and measured there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "adding_a_layer.md").read_text()
# A file that the text names last before a block is the block's.
BLOCKS = [
    (re.findall(r"`([\w/]+\.(?:py|yaml))`", before)[-1], language, code)
    for before, language, code in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
]
SCENARIO = next(code for _, language, code in BLOCKS if language == "yaml")
QUICK = "measure: {min_samples: 3, floor_samples: 2, max_seconds: 0.1, warmup_seconds: 0.01, retake_seconds: 0}\n"


def changed(text, diff):
    """A file's text after a diff whose hunks (parted by ``@@``) are found by their lines, and nowhere else."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"stands {text.count(old)} times in the file:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the kind added as the document says."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("layers", "membench"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests").mkdir()
    for name in ("house.py", "draw_imports.py"):
        shutil.copy(ROOT / "tests" / name, copy / "tests")
    for name, language, code in BLOCKS:
        path = copy / name
        assert path.exists() == (language == "diff"), name
        path.write_text(changed(path.read_text(), code) if language == "diff" else code)
    (copy / "low_rank.yaml").write_text(SCENARIO + QUICK)
    return copy


def python(project, *words):
    environment = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=project, env=environment)


def told(project, *words):
    """What a command of membench prints as JSON."""
    done = python(project, "-m", "membench", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_takes_less_than_sixty_lines():
    added = [line for _, language, code in BLOCKS if language == "python" for line in code.splitlines()]
    added += [
        line[1:] for _, language, code in BLOCKS if language == "diff" for line in code.splitlines() if line[0] == "+"
    ]
    assert 20 < len([line for line in added if line.strip()]) < 60


def test_the_house_allows_it(project):
    drawn = python(project, "-m", "tests.draw_imports")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "low_rank" in drawn.stdout


def test_the_plan_imports_no_torch(project):
    code = "import sys, layers.spec; assert 'low_rank' in layers.spec.KINDS; assert 'torch' not in sys.modules"
    done = python(project, "-c", code)
    assert done.returncode == 0, done.stderr


def test_it_is_listed_and_planned(project):
    assert "low_rank" in {row["kind"] for row in told(project, "list")["layers"]}
    cases = {
        (each["case"]["arm"], each["case"]["mode"]): each
        for each in told(project, "plan", "low_rank.yaml")["plans"][0]["cases"]
    }
    for mode in ("forward", "forward_backward", "train_step"):
        found, dense = cases["low_rank", mode], cases["dense", mode]
        assert found["skipped"] is None
        assert found["case"]["layer"]["bottleneck"] == 192  # 4·d·r = 6·d·f
        assert found["flops"] == dense["flops"]
        assert found["params"] == 2 * 64 * 192


PROFILED = """
from membench.profiler.asked import Asked, scenario_of
from membench.planning.planner import make_plan
(words,) = (line.split() for line in DOCUMENT.splitlines() if "membench profile" in line)
asked = Asked(words[words.index("--layer") + 1], overrides=(words[words.index("--set") + 1],), dtype="fp32")
cases = make_plan(scenario_of(asked, "cpu")).runnable
assert [case.case.layer.bottleneck for case in cases] == [192, 192]
"""


def test_it_can_be_profiled(project):
    done = python(project, "-c", f"DOCUMENT = {DOCUMENT!r}\n{PROFILED}")
    assert done.returncode == 0, done.stderr


CHECKED = """
import torch
from layers import Step, build, spec_from, verify
spec = spec_from({"kind": "low_rank", "model_dim": 24, "bottleneck": 10, "dtype": "float32"})
layer = build(spec, seed=1)
assert sum(p.numel() for p in layer.parameters()) == spec.cost(Step(1)).params
x = torch.randn(16, 24)
for mode in ("forward", "forward_backward"):
    assert verify(layer, x, gradients=mode == "forward_backward").failure is None
assert set(verify(layer, x).errors) == {"output", "x", "down", "up"}
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    layer(x.requires_grad_()).sum().backward()
assert counter.get_total_flops() == spec.cost(Step(16, mode="forward_backward")).flops
twice = lambda x, routing: 2 * layer(x, routing)
assert "is off by" in verify(layer, x.detach(), call=twice).failure
"""


def test_its_cost_is_right_and_its_reference_tells_right_from_wrong(project):
    done = python(project, "-c", CHECKED)
    assert done.returncode == 0, done.stderr


def test_it_is_measured(project, tmp_path):
    printed = told(project, "run", "low_rank.yaml", "--device", "cpu", "--output", str(tmp_path / "out"))
    records = [each for each in printed["results"][0]["result"]["cases"] if each["case"]["arm"] == "low_rank"]
    assert [each["case"]["mode"] for each in records] == ["forward", "forward_backward", "train_step"]
    for record in records:
        assert record["status"] == "ok", record["reason"]
        (found,) = record["rounds"]
        assert found["reference"]["errors"]["output"] <= 1e-5
        assert found["cost"]["source"] == "exact"
        assert record["metrics"]["latency_ms_p50"] > 0
    shown = told(project, "report", printed["results"][0]["path"], "--output", str(tmp_path / "page.html"))
    assert "low_rank" in {each["arm"] for answer in shown["runs"][0]["answers"] for each in answer["standings"]}


IN_A_MODEL = """
schema_version: 1
name: in_a_model
level: model
model: {preset: tiny}
dtype: float32
arms: {low_rank: {layer: low_rank, bottleneck: 64, at: middle}}
workload: {prompt: 8, modes: [decode, train_step], optimizers: [adamw]}
"""


@pytest.mark.slow
def test_it_stands_in_a_model(project, tmp_path):
    (project / "in_a_model.yaml").write_text(IN_A_MODEL + QUICK)
    printed = told(project, "run", "in_a_model.yaml", "--device", "cpu", "--output", str(tmp_path / "out"))
    records = printed["results"][0]["result"]["cases"]
    assert [(each["case"]["mode"], each["status"]) for each in records] == [("decode", "ok"), ("train_step", "ok")]


@pytest.mark.slow
def test_a_wrong_module_is_not_timed(project, tmp_path):
    wrong = tmp_path / "wrong"
    shutil.copytree(project, wrong, symlinks=True)
    module = wrong / "layers" / "low_rank.py"
    text = module.read_text()
    assert text.count("linear(hidden, self.up)") == 1
    module.write_text(text.replace("linear(hidden, self.up)", "linear(hidden, 2 * self.up)"))
    alone = re.sub(
        r"arms:\n.*?\nworkload", "arms: {x: {layer: low_rank, bottleneck: 64}}\nworkload", SCENARIO, flags=re.DOTALL
    )
    (wrong / "alone.yaml").write_text(alone + QUICK)
    done = python(wrong, "-m", "membench", "run", "alone.yaml", "--device", "cpu", "--output", "out", "--json")
    records = json.loads(done.stdout)["results"][0]["result"]["cases"]
    assert len(records) == 3
    assert all(each["status"] == "error" and "wrong answer" in each["reason"] for each in records)
