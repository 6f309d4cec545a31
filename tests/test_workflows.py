"""The workflows of this repository: sound, and what the documents say that they are."""

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.iterdir())
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in FILES}
EVERY_JOB = [
    pytest.param(job, id=f"{file}-{name}") for file, flow in WORKFLOWS.items() for name, job in flow["jobs"].items()
]


def scripts(job):
    return [step["run"].strip() for step in job["steps"] if "run" in step]


def block_in_ci_md():
    (block,) = re.findall(r"^```yaml\n(name:.*?)^```", (ROOT / "docs/ci.md").read_text(), re.MULTILINE | re.DOTALL)
    return block


def linted(folder):
    """What zizmor says of a folder's workflows: syntax, schema, rights, expressions in shell lines, loose versions."""
    linter = shutil.which("zizmor", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if linter is None:
        pytest.skip("needs zizmor, of the dev dependencies")
    command = [linter, "--offline", "--strict-collection", "--pedantic", "--no-progress", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_linter_finds_nothing():
    done = linted(FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "written, instead",
    [("runs-on:", "runs_on:"), ('origin/$BASE"', 'origin/${{ github.base_ref }}"'), ("permissions: {}\n", "")],
)
def test_the_linter_finds_what_is_wrong(tmp_path, written, instead):
    text = (FOLDER / "gate.yml").read_text()
    assert written in text
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/gate.yml").write_text(text.replace(written, instead))
    assert linted(tmp_path / ".github/workflows").returncode != 0


def test_the_jobs_run_what_a_contributor_runs():
    jobs = WORKFLOWS["ci.yml"]["jobs"]
    assert {name: scripts(job) for name, job in jobs.items()} == {"check": ["make check"], "test": ["make test"]}
    commands = re.findall("^make .*", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert commands == [script for job in jobs.values() for script in scripts(job)]


def test_the_gate_is_the_workflow_that_ci_md_shows():
    assert (FOLDER / "gate.yml").read_text() == block_in_ci_md()


def test_what_others_change_in_the_gate_is_marked():
    """A copy without this project's file of versions must not keep a line that reads it."""
    lines = [line for line in (FOLDER / "gate.yml").read_text().splitlines() if "constraints" in line]
    assert len(lines) == 2
    assert all("# yours:" in line for line in lines)


@pytest.mark.parametrize("job", EVERY_JOB)
def test_a_job_ends_and_its_actions_are_of_one_commit(job):
    assert job["timeout-minutes"] <= 60
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_results_of_the_gate_are_kept_whatever_it_says():
    (job,) = WORKFLOWS["gate.yml"]["jobs"].values()
    (upload,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "always()"
    (command,) = (script for script in scripts(job) if "membench ab" in script)
    outputs = re.findall(r"--(?:junit|markdown) (\S+)", command)
    assert len(outputs) == 2
    assert set(outputs) < set(upload["with"]["path"].split())


def test_the_oldest_python_is_tried():
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"][0] == oldest


def test_one_action_has_one_version():
    found = {re.search(r"uses: (\S+)@(.*)", line).groups() for path in FILES for line in lines_with_uses(path)}
    assert len({action for action, _ in found}) == len(found)
    assert all(re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", version) for _, version in found)


def lines_with_uses(path):
    return [line for line in path.read_text().splitlines() if "uses:" in line]
