"""``membench ab`` for real: a repository of two commits, one slower, measured in turn by this harness."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYER = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, model_dim, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(model_dim, hidden), nn.Linear(hidden, model_dim)

    def forward(self, x):
        {extra}
        return self.down(torch.relu(self.up(x)))

def small(model_dim, **options):
    return Small(model_dim, 4 * model_dim)
"""
SCENARIO = """
schema_version: 1
name: outside
model_dim: 256
dtype: float32
arms:
  small: {layer: "the_layer:small"}
workload: {tokens: 64}
measure: {threads: 1, warmup_seconds: 0.05, max_seconds: 1}
"""


@pytest.fixture
def repository(committed, tmp_path):
    """A copy of ``committed`` for a test alone."""
    return Path(shutil.copytree(committed, tmp_path / "repository"))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """Commits ``fast``, ``slow`` (adds up its weights too), ``broken`` and ``unbuilt`` of a layer, and a scenario."""
    folder = tmp_path_factory.mktemp("committed")

    def git(*words):
        named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True)

    git("init", "--initial-branch", "main")
    for tag, extra in (
        ("fast", "pass"),
        ("slow", "for _ in range(24): self.up.weight.sum()"),
        ("broken", "raise RuntimeError('it broke')"),
        ("unbuilt", "raise RuntimeError('it broke')"),
    ):
        layer = LAYER.format(extra=extra)
        if tag == "unbuilt":
            layer = layer.replace("return Small", "raise MemoryError('no room to build it')\n    return Small")
        (folder / "the_layer.py").write_text(layer)
        (folder / "outside.yaml").write_text(SCENARIO)
        own = SCENARIO.replace('{layer: "the_layer:small"}', "{layer: dense, ffn_hidden: 64}")
        (folder / "own.yaml").write_text(own)
        git("add", ".")
        git("commit", "-m", tag)
        git("tag", tag)
    return folder


def ab(folder, *words, code):
    done = subprocess.run(
        [sys.executable, "-m", "membench", "ab", *words, "--scenario", "outside.yaml", "--output", "out", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return (json.loads(done.stdout) if done.stdout else None), done.stderr


def worktrees(folder):
    listed = subprocess.run(["git", "worktree", "list"], cwd=folder, capture_output=True, text=True).stdout
    return len(listed.splitlines())


def test_a_slower_commit_is_found_confirmed_and_reproducible(repository):
    found, _ = ab(repository, "fast", "slow", "--rounds", "8", code=1)
    case = found["comparisons"][0]["cases"][0]
    assert case["verdict"] == "SLOW"
    assert case["metrics"][0]["change"] > 0.05
    assert "confirmed" in case["metrics"][0]["reason"]
    assert case["reproduce"].startswith("membench ab ")
    files = sorted(path.name.split("_")[0] for path in (repository / "out").glob("*.json"))
    assert files == ["outside-ab-base", "outside-ab-confirm-base", "outside-ab-confirm-head", "outside-ab-head"]
    assert not list((repository / "out").glob("*.jsonl"))
    assert worktrees(repository) == 1
    # the two files are judged as what they are: rounds in turn
    head, base = (next((repository / "out").glob(f"outside-ab-{side}_*.json")) for side in ("head", "base"))
    again = subprocess.run(
        [sys.executable, "-m", "membench", "compare", str(base), str(head), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert json.loads(again.stdout)["comparisons"][0]["cases"][0]["metrics"][0]["method"].startswith("paired")


def test_a_commit_that_breaks_a_case_fails(repository):
    found, _ = ab(repository, "fast", "broken", "--rounds", "1", code=1)
    case = found["comparisons"][0]["cases"][0]
    assert case["verdict"] == "FAILED"
    assert "it broke" in case["metrics"][0]["reason"]
    _, err = ab(repository, "broken", "fast", "--rounds", "1", code=4)
    assert "it broke" in err


def test_a_commit_that_cannot_be_built_says_why(repository):
    found, err = ab(repository, "fast", "unbuilt", "--rounds", "1", code=1)
    assert "head: oom: no room to build it" in err
    assert "no room to build it" in found["comparisons"][0]["cases"][0]["metrics"][0]["reason"]


def test_in_a_pre_commit_hook_it_measures_and_the_commit_is_what_was_meant(repository):
    subprocess.run(["git", "reset", "--hard", "slow"], cwd=repository, check=True, capture_output=True)
    hook = repository / ".git/hooks/pre-commit"
    words = f"ab HEAD~1 HEAD --scenario outside.yaml --rounds 1 --output '{repository.parent}/out'"
    hook.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT}' '{sys.executable}' -m membench {words}\n")
    hook.chmod(0o755)
    refs = "git for-each-ref; git worktree list; git stash list; cat .git/config"
    before = subprocess.run(refs, cwd=repository, shell=True, capture_output=True, text=True).stdout
    (repository / "own.yaml").write_text("changed")
    named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", *named, "commit", "-am", "x"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "there are changes here that are not committed" in done.stderr
    assert len(list((repository.parent / "out").glob("outside-ab-*.json"))) == 2
    changed = subprocess.run(["git", "show", "--stat", "--format="], cwd=repository, capture_output=True, text=True)
    assert changed.stdout.split("|")[0].strip() == "own.yaml"
    assert not subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True).stdout
    after = subprocess.run(refs, cwd=repository, shell=True, capture_output=True, text=True).stdout
    tip = [line for line in before.splitlines() if "refs/heads/main" not in line and "[main]" not in line]
    assert [line for line in after.splitlines() if "refs/heads/main" not in line and "[main]" not in line] == tip
    assert worktrees(repository) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nosuch", "HEAD"), "BASE: 'nosuch' is no revision of this repository"),
        (("fast", "--", "-x"), "HEAD"),
        (("fast", "slow", "--case", "zz"), "no case of outside has an id that begins with 'zz'"),
        (("fast", "slow", "--rounds", "0"), "rounds"),
        (("fast", "slow", "--scenario", "own.yaml", "--rounds", "1"), "nothing that the scenario measures comes from"),
        (("fast", "slow", "--scenario", "none.yaml"), "none.yaml: there is no such file"),
    ],
)
def test_bad_input_is_one_line(repository, words, said):
    done = subprocess.run(
        [sys.executable, "-m", "membench", "ab", "--scenario", "outside.yaml", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert worktrees(repository) == 1


@pytest.mark.parametrize("caller", [(), ("env", "--ignore-signal=CHLD")], ids=["", "SIGCHLD ignored"])
def test_outside_a_repository_it_is_said(caller, tmp_path):
    done = subprocess.run(
        [*caller, sys.executable, "-m", "membench", "ab", "a", "b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )
    assert done.returncode == 2
    assert "is no git repository" in done.stderr
