"""What documents tell a reader to copy."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from repositories import commits, git

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKFLOWS = [
    (path.name, block)
    for path in DOCUMENTS
    for block in re.findall(r"^```ya?ml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    if re.search("^jobs:", block, re.MULTILINE)
]


def steps(workflow):
    found = [step for job in yaml.safe_load(workflow)["jobs"].values() for step in job["steps"]]
    assert all(len({"run", "uses"} & step.keys()) == 1 for step in found)
    return found


def test_there_is_a_workflow():
    assert [name for name, _ in WORKFLOWS].count("ci.md") == 1


@pytest.mark.parametrize("workflow", [block for _, block in WORKFLOWS], ids=[name for name, _ in WORKFLOWS])
def test_a_workflow_puts_no_expression_into_a_shell_line(workflow):
    scripts = [step["run"] for step in steps(workflow) if "run" in step]
    assert scripts
    assert not [script for script in scripts if "${{" in script]


@pytest.mark.parametrize("branch", ["main", '"; touch taken; "', "$(touch taken)", "a b; touch taken"])
def test_a_branch_that_is_named_like_a_command_is_only_a_name(tmp_path, branch):
    commits(tmp_path / "origin", "1", "2")
    git(tmp_path, "clone", str(tmp_path / "origin"), "clone")
    (tmp_path / "membench").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "membench").chmod(0o755)
    step = next(step for _, block in WORKFLOWS for step in steps(block) if "membench ab" in step.get("run", ""))
    assert step["env"] == {"BASE": "${{ github.base_ref }}"}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=tmp_path / "clone",
        capture_output=True,
        text=True,
        env={**os.environ, "BASE": branch, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )
    assert not (tmp_path / "clone/taken").exists()
    known = git(tmp_path / "origin", "rev-parse", "HEAD") if branch == "main" else ""
    assert done.stdout.splitlines()[:3] == ["ab", known, "HEAD"]
