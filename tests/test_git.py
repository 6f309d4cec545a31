"""Git leaves the caller's repository as it was, whoever the caller is: a hook, a rebase, another worktree."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from repositories import as_another_user, commits, everything, git

from membench.ab.repository import Repository
from membench.ab.revisions import checked_out, uncommitted_changes
from membench.errors import UsageError
from membench.git.command import GitError
from membench.git.command import git as our_git

ROOT = Path(__file__).parent.parent
# A hook that reads two revisions as `membench ab` does, and fails where anything here is not as it was.
HOOK = f"""#!{sys.executable}
import os, sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from repositories import everything
from membench.ab.revisions import checked_out, uncommitted_changes

name, log = Path(sys.argv[0]).name, Path(os.environ["HOOK_LOG"])
if "HOOK_RUNS" in os.environ:
    log.write_text(log.read_text() + f"{{name}} was run by a git of ours\\n")
    sys.exit(1)
os.environ["HOOK_RUNS"] = name
before = everything(os.environ["REPOSITORY"])
uncommitted_changes()
with checked_out(("HEAD~1", "HEAD")) as sides:
    read = [side.tree.joinpath("file.txt").read_text() for side in sides]
same = everything(os.environ["REPOSITORY"]) == before
log.write_text(log.read_text() + f"{{name}} read {{' '.join(read)}}: {{'the same' if same else 'changed'}}\\n")
sys.exit(not same or name == os.environ.get("FAILS"))
"""
HOOKS = ("pre-commit", "pre-push", "post-checkout", "post-index-change")


@pytest.fixture
def hooked(tmp_path, monkeypatch):
    """A repository of three commits, a remote, and hooks that read two of its revisions; and their log."""
    folder = commits(tmp_path / "of a üser", "1", "2", "3")
    git(tmp_path, "init", "--bare", "remote")
    git(folder, "remote", "add", "origin", str(tmp_path / "remote"))
    (folder / "other.txt").write_text("other")
    git(folder, "add", "other.txt")
    git(folder, "commit", "--message", "other")
    log = tmp_path / "hook.log"
    log.write_text("")
    monkeypatch.setenv("HOOK_LOG", str(log))
    monkeypatch.setenv("REPOSITORY", str(folder))
    return folder, log


def install(folder, *names):
    for name in names:
        path = folder / ".git/hooks" / name
        path.write_text(HOOK)
        path.chmod(0o755)


@pytest.mark.parametrize("how", ["-am", "staged", "one file", "linked worktree"])
def test_a_commit_whose_hook_reads_revisions_is_the_commit_that_was_meant(hooked, tmp_path, how):
    folder, log = hooked
    where = folder
    if how == "linked worktree":
        git(folder, "worktree", "add", "-b", "linked", str(tmp_path / "linked"))
        where = tmp_path / "linked"
    install(folder, "pre-commit", "post-checkout")
    (where / "file.txt").write_text("4")
    (where / "other.txt").write_text("changed too")
    if how == "staged":
        git(where, "add", "file.txt")
    words = {"-am": ["-am", "4"], "staged": ["-m", "4"], "one file": ["-m", "4", "file.txt"]}
    git(where, "commit", *words.get(how, ["-am", "4"]))
    assert log.read_text() == "pre-commit read 3 3: the same\n"
    left = [] if how in ("-am", "linked worktree") else [" M other.txt"]
    assert git(where, "show", "HEAD:file.txt") == "4"
    assert git(where, "status", "--porcelain").splitlines() == [line.strip() for line in left]
    assert len(git(folder, "worktree", "list").splitlines()) == (2 if how == "linked worktree" else 1)


def test_hooks_are_not_run_and_one_that_fails_stops_nothing(hooked, monkeypatch):
    folder, log = hooked
    install(folder, *HOOKS)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOOK_RUNS", "the test")  # so every hook that is run says so, and fails
    before = everything(folder)
    assert not uncommitted_changes()
    with checked_out(("HEAD~2", "HEAD~1")) as sides:
        assert [(side.tree / "file.txt").read_text() for side in sides] == ["2", "3"]
    assert everything(folder) == before
    assert log.read_text() == ""


def test_a_push_a_checkout_a_rebase_and_a_bisection_read_revisions(hooked, monkeypatch):
    folder, log = hooked
    install(folder, "pre-push", "post-checkout")
    git(folder, "push", "origin", "main")
    monkeypatch.setenv("FAILS", "post-checkout")
    failed = subprocess.run(["git", "checkout", "-b", "topic"], cwd=folder, capture_output=True)
    assert failed.returncode == 1  # it is their hook's word
    (folder / ".git/hooks/post-checkout").unlink()
    reader = folder / ".git/reader"
    reader.write_text(HOOK)
    reader.chmod(0o755)
    git(folder, "rebase", "--force-rebase", "--exec", f"'{reader}'", "HEAD~1")
    git(folder, "bisect", "start", "HEAD", "HEAD~2")
    git(folder, "bisect", "run", str(reader))
    names = [line.split()[0] for line in log.read_text().splitlines()]
    assert names == ["pre-push", "post-checkout", "reader", "reader"]
    assert "changed" not in log.read_text()


def test_nothing_of_the_callers_git_reaches_ours(tmp_path, monkeypatch):
    local = git(tmp_path, "rev-parse", "--local-env-vars").split()
    noise = ["GIT_TRACE", "GIT_TRACE2_EVENT", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_LITERAL_PATHSPECS"]
    noise += ["GIT_QUARANTINE_PATH", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0", "GIT_NAMESPACE", "GIT_ATTR_SOURCE"]
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in [*local, *noise]:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")  # where a user's own settings are stays
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -x")
    (tmp_path / "git").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    seen = dict(line.split("=", 1) for line in our_git("status", at=tmp_path).splitlines() if "=" in line)
    assert {name for name in seen if name.startswith("GIT_")} == {
        "GIT_CONFIG_GLOBAL",
        "GIT_SSH_COMMAND",
        "GIT_OPTIONAL_LOCKS",
        "GIT_TERMINAL_PROMPT",
    }
    assert seen["LC_ALL"] == "C"


def test_one_file_starts_git():
    for folder in ("membench", "layers", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == ROOT / "membench/git/command.py":
                continue
            words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            assert not [word for word in words if isinstance(word, str) and (word == "git" or word[:4] == "git ")], path


def test_a_shared_index_a_monitor_and_a_sparse_checkout_of_the_users_are_left_alone(tmp_path, monkeypatch):
    folder = commits(tmp_path / "u", "1", "2")
    commits(folder, "deep", file="inner/deep.txt")
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch '{tmp_path}/was-run'\n")
    monitor.chmod(0o755)
    for key, value in (("core.splitIndex", "true"), ("core.fsmonitor", str(monitor)), ("submodule.recurse", "true")):
        git(folder, "config", key, value)
    git(folder, "sparse-checkout", "set", "nothing")
    assert not (folder / "inner").exists()
    (tmp_path / "was-run").unlink(missing_ok=True)
    before = everything(folder)
    monkeypatch.chdir(folder)
    assert not uncommitted_changes()
    with checked_out(("HEAD~1", "HEAD")) as (base, head):
        assert (base.tree / "file.txt").read_text() == "2"
        assert (head.tree / "inner/deep.txt").read_text() == "deep"
    assert everything(folder) == before
    assert not (tmp_path / "was-run").exists()


def test_files_are_written_as_the_users_own_checkout_would(tmp_path):
    folder = commits(tmp_path / "u", "unused")
    (folder / ".gitattributes").write_text("*.txt text eol=crlf\nsecret.py filter=upper\nleft-out export-ignore\n")
    for name in ("secret.py", "left-out"):
        (folder / name).write_text("abc")
    commits(folder, "a\nb\n")
    (folder / ".gitattributes").write_text("")  # those of the commit count, not those that lie here
    git(folder, "config", "filter.upper.smudge", "tr a-z A-Z")
    Repository(folder, tmp_path).write("HEAD", tmp_path / "tree")
    assert (tmp_path / "tree/file.txt").read_bytes() == b"a\r\nb\r\n"
    assert (tmp_path / "tree/secret.py").read_text() == "ABC"
    assert (tmp_path / "tree/left-out").read_text() == "abc"


def test_submodules_are_written_where_they_are_here(tmp_path, monkeypatch, capsys):
    library = commits(tmp_path / "library", "old", "new")
    folder = commits(tmp_path / "u", "1")
    git(folder, "submodule", "add", str(library), "lib")
    git(folder, "commit", "--message", "with lib")
    git(folder / "lib", "checkout", "HEAD~1")
    git(folder, "commit", "-am", "older lib")
    before = everything(folder)
    monkeypatch.chdir(folder)
    with checked_out(("HEAD~1", "HEAD")) as sides:
        assert [(side.tree / "lib/file.txt").read_text() for side in sides] == ["new", "old"]
    assert everything(folder) == before
    assert capsys.readouterr().err == ""
    git(tmp_path, "clone", str(folder), "without")
    monkeypatch.chdir(tmp_path / "without")
    with checked_out(("HEAD~2", "HEAD")) as sides:
        assert [(side.tree / "file.txt").read_text() for side in sides] == ["1", "1"]
    said = capsys.readouterr().err
    assert said == "membench: HEAD HEAD: without its submodules lib, which are not here at that commit\n"
    monkeypatch.chdir(folder / "lib")  # a submodule is a repository of its own
    with checked_out(("HEAD", "main")) as sides:
        assert [(side.tree / "file.txt").read_text() for side in sides] == ["old", "new"]


@pytest.mark.parametrize("where", ["bare", "read-only", "subfolder", "inside .git"])
def test_from_wherever_a_repository_can_be_read(tmp_path, monkeypatch, where):
    folder = commits(tmp_path / "u", "1", "2", file="deep/er/file.txt")
    git(tmp_path, "clone", "--bare", str(folder), "bare.git")
    monkeypatch.chdir({"bare": tmp_path / "bare.git", "inside .git": folder / ".git"}.get(where, folder / "deep"))
    if where == "read-only":
        for path in sorted(folder.rglob("*"), reverse=True):
            path.chmod(0o555 if path.is_dir() else 0o444)
    assert not uncommitted_changes()
    with checked_out(("HEAD~1", "HEAD")) as (base, head):
        assert (base.tree / "deep/er/file.txt").read_text() == "1"
        assert (str(head.tree / "deep") in head.code.folders) == (where in ("read-only", "subfolder"))


def test_a_repository_of_any_name_and_kind_of_sha(tmp_path, monkeypatch):
    folder = tmp_path / 'w"e:i\\rd\nname '
    git(tmp_path, "init", "--object-format=sha256", str(folder))
    commits(folder, "1", "2")
    git(tmp_path, "clone", "--shared", str(commits(tmp_path / "plain", "1", "2")), "shares")
    (tmp_path / "shares/.git/objects/info/alternates").write_text("../../../plain/.git/objects\n")
    for where in (folder, tmp_path / "shares"):
        monkeypatch.chdir(where)
        with checked_out(("HEAD~1", "HEAD")) as sides:
            assert [(side.tree / "file.txt").read_text() for side in sides] == ["1", "2"]


def test_a_partial_clone_keeps_what_is_fetched_out_of_it_and_says_what_is_missing(tmp_path, monkeypatch):
    origin = commits(tmp_path / "origin", "1", "2")
    git(origin, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--filter=blob:none", f"file://{origin}", "partial")
    monkeypatch.chdir(tmp_path / "partial")
    before = everything(tmp_path / "partial")
    with checked_out(("HEAD~1", "HEAD")) as sides:
        assert [(side.tree / "file.txt").read_text() for side in sides] == ["1", "2"]
    assert everything(tmp_path / "partial") == before
    origin.rename(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"BASE: 'HEAD~1' cannot be checked out \(fatal: could not fetch "):
        checked_out(("HEAD~1", "HEAD")).__enter__()


def test_another_owners_repository_is_named_as_such(tmp_path, monkeypatch):
    folder = commits(tmp_path / "u", "1")
    as_another_user(tmp_path, monkeypatch)
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError) as found:
        uncommitted_changes()
    assert f"another user owns; `git config --global --add safe.directory {folder}` lets it" in str(found.value)
    assert "no git repository" not in str(found.value)


def test_git_that_cannot_be_run_or_hangs_is_an_error_of_one_line(tmp_path, monkeypatch):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(GitError, match=r"^git status did not answer within 0\.1 s$"):
        our_git("status", at=tmp_path, timeout_s=0.1)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(GitError, match=r"^git cannot be run \(No such file or directory\)$"):
        our_git("status", at=tmp_path)
