"""The commit in a result file is membench's own, or none: never that of a repository that it only lies in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repositories import as_another_user, commits, git

from membench.git.commit import Commit, _say, commit_after, running_commit

ROOT = Path(__file__).parent.parent
PROJECT = '[project]\nname = "membench"\n'
INSTALLED = "not a git checkout"


@pytest.fixture(autouse=True)
def _said_anew():
    _say.cache_clear()


def checkout(folder, **files):
    """A small membench at ``folder``, not committed."""
    for path, text in {
        "membench/__init__.py": "",
        "layers/__init__.py": "",
        "pyproject.toml": PROJECT,
        **files,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def own(tmp_path):
    """A checkout of membench of two commits."""
    return commits(checkout(tmp_path / "own"), "1", "2")


def sha(folder):
    return git(folder, "rev-parse", "--short=10", "HEAD")


def test_a_checkout_has_its_commit(own):
    assert running_commit(own / "membench") == Commit(sha(own), False)


@pytest.mark.parametrize("kind", ["linked worktree", "shallow clone", "submodule"])
def test_so_has_one_of_any_kind(own, tmp_path, kind):
    there = tmp_path / "there"
    if kind == "linked worktree":
        git(own, "worktree", "add", "--detach", str(there), "HEAD~1")
    elif kind == "shallow clone":
        git(tmp_path, "clone", "--depth", "1", f"file://{own}", str(there))
    else:
        users = commits(tmp_path / "users", "a", "b")
        git(users, "submodule", "add", str(own), "membench")
        there = users / "membench"
    assert running_commit(there / "membench") == Commit(sha(there), False)


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        (lambda own: (own / "layers/__init__.py").write_text("x = 1"), True),
        (lambda own: (own / "layers/new_kernel.py").write_text("x = 1"), True),
        (lambda own: checkout(own / "membench/new"), True),
        (lambda own: (own / "file.txt").write_text("3"), True),
        (lambda own: git(own, "mv", "file.txt", "moved.txt"), True),
        (lambda own: (own / "results.json").write_text("{}"), False),
        (lambda own: os.utime(own / "layers/__init__.py", (1, 1)), False),
        (
            lambda own: (own / ".git/info/exclude").write_text("__pycache__") and (own / "layers/__pycache__").mkdir(),
            False,
        ),
    ],
    ids=["changed", "new file", "new folder", "beside the code", "staged", "a result", "touched", "ignored"],
)
def test_what_would_run_otherwise_is_dirty(own, change, dirty):
    change(own)
    assert running_commit(own / "membench") == Commit(sha(own), dirty)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_file_that_git_does_not_look_at_is_not_called_unchanged(own, flag):
    git(own, "update-index", flag, "layers/__init__.py")
    (own / "layers/__init__.py").write_text("x = 1")
    note = "changes of layers/__init__.py are hidden from git"
    assert running_commit(own / "membench") == Commit(sha(own), None, note)


def test_code_that_is_changed_while_a_run_imports_it_is_dirty(own):
    before = running_commit(own / "membench")
    assert commit_after(before, own / "membench") == before
    (own / "layers/__init__.py").write_text("x = 1")
    changed = Commit(before.sha, True, "the checkout was changed while this ran")
    assert commit_after(before, own / "membench") == changed
    git(own, "commit", "-am", "another")  # clean again, and not what ran at first
    assert commit_after(before, own / "membench") == changed
    unknown = Commit(None, None, "why")
    assert commit_after(unknown, own / "membench") == unknown


def test_a_repository_that_it_only_lies_in_is_not_its_own(tmp_path):
    users = commits(tmp_path / "users", "1")
    site = checkout(users / ".venv/lib/site-packages")
    vendored = checkout(users / "third_party/membench")
    assert running_commit(site / "membench") == Commit(None, None, INSTALLED)
    git(users, "add", "third_party")
    git(users, "commit", "--message", "vendored")
    assert running_commit(vendored / "membench") == Commit(None, None, INSTALLED)
    (vendored / ".git").mkdir()  # not a repository: git would go on to the one around it
    commit = running_commit(vendored / "membench")
    assert commit.sha is None
    assert "not a git repository" in commit.note


def test_a_copy_at_the_top_of_a_users_repository_is_not_theirs_either(tmp_path):
    top = checkout(tmp_path / "u", **{"pyproject.toml": '[project]\nname = "theirs"\n'})
    commits(top, "1")
    assert running_commit(top / "membench") == Commit(None, None, INSTALLED)
    copied = commits(tmp_path / "empty", "1")
    checkout(copied)
    (copied / ".git/info/exclude").write_text("membench\n")
    assert running_commit(copied / "membench").note == "membench lies in a repository that does not track it"


def test_a_repository_that_git_does_not_read_is_said_once_and_why_is_kept(own, tmp_path, monkeypatch, capsys):
    as_another_user(tmp_path, monkeypatch)
    commit = running_commit(own / "membench")
    assert running_commit(own / "membench") == commit
    assert commit[:2] == (None, None)
    assert commit.note == (
        f"git refuses a repository that another user owns; `git config --global --add safe.directory {own}` lets it"
    )
    assert capsys.readouterr().err == f"membench: the commit of {own} is not known: {commit.note}\n"


@pytest.mark.parametrize(
    ("shim", "why"),
    [
        (None, "git cannot be run (No such file or directory)"),
        (
            'case "$*" in *status*) echo "fatal: index is broken" >&2; exit 128;; esac; exec {git} "$@"',
            "index is broken",
        ),
    ],
    ids=["missing", "no status"],
)
def test_what_git_cannot_say_is_unknown_and_not_clean(own, tmp_path, monkeypatch, capsys, shim, why):
    (tmp_path / "bin").mkdir()
    if shim:
        (tmp_path / "bin/git").write_text(f"#!/bin/sh\n{shim.format(git=shutil.which('git'))}\n")
        (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    commit = running_commit(own / "membench")
    assert commit[:2] == (None, None)
    assert why in commit.note
    assert why in capsys.readouterr().err


def test_a_checkout_without_a_commit_has_none(tmp_path):
    git(tmp_path, "init", "own")
    checkout(tmp_path / "own")
    git(tmp_path / "own", "add", ".")
    assert running_commit(tmp_path / "own/membench")[:2] == (None, None)


@pytest.mark.parametrize(
    ("origin", "known"),
    [
        ({"url": "https://x/y", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef" * 2}}, "0123456789"),
        ({"url": "file:///x", "dir_info": {}}, None),
        ({"url": "https://x/y.whl", "archive_info": {}}, None),
        (None, None),
        ([1], None),
    ],
)
def test_an_installed_one_has_the_commit_that_the_installer_wrote_down(tmp_path, monkeypatch, origin, known):
    site = checkout(tmp_path / "site-packages")
    info = site / "membench-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: membench\nVersion: 0.1\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    note = "the commit that it was installed from" if known else INSTALLED
    assert running_commit(site / "membench") == Commit(known, None, note)
    elsewhere = checkout(tmp_path / "elsewhere")  # what was installed is not what runs
    assert running_commit(elsewhere / "membench") == Commit(None, None, INSTALLED)


def test_a_hooks_variables_do_not_change_it(own, tmp_path, monkeypatch):
    users = commits(tmp_path / "users", "1")
    monkeypatch.setenv("GIT_DIR", str(users / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(users / ".git/index"))
    known = running_commit(own / "membench")
    monkeypatch.undo()
    assert known == Commit(sha(own), False)


def test_a_wheel_in_a_users_repository_records_no_commit_of_theirs(tmp_path):
    users = commits(tmp_path / "users", "1")
    site = users / ".venv/site-packages"
    shutil.copytree(ROOT / "membench", site / "membench", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from membench.git.commit import running_commit; print(*running_commit(), sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=users,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"},
    )
    assert (done.stdout, done.stderr) == (f"None|None|{INSTALLED}\n", "")
