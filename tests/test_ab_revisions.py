"""What `membench ab` says of a revision that it cannot find, and what each side imports."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from repositories import commits, git

from membench.ab.naming import commit_of
from membench.ab.repository import Repository
from membench.ab.revisions import checked_out
from membench.errors import UsageError
from membench.layers import face
from membench.running import protocol

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A repository of three commits on ``main``, a branch ``täst/x``, a tag of a commit and one of a blob."""
    folder = commits(tmp_path_factory.mktemp("known") / "u", "1", "2", "3")
    git(folder, "branch", "täst/x", "HEAD~1")
    git(folder, "branch", "4ad", "HEAD~2")  # its name could be a sha's beginning
    git(folder, "tag", "-a", "v1", "--message", "one", "HEAD~2")
    git(folder, "tag", "a-file", "HEAD:file.txt")
    git(folder, "commit", "--allow-empty", "--message", "four and more")
    return folder


def asked(folder, scratch, name):
    return commit_of(Repository(folder, scratch), name, "BASE")


def refusal(folder, scratch, name):
    with pytest.raises(UsageError) as found:
        asked(folder, scratch, name)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("main", "HEAD"),
        ("täst/x", "HEAD~2"),
        ("v1", "HEAD~3"),
        ("4ad", "HEAD~3"),
        (":/four and", "HEAD"),
        ("HEAD^{/four}", "HEAD"),
        ("main@{0}", "HEAD"),
        ("HEAD^^", "HEAD~2"),
    ],
)
def test_a_revision_of_any_form_is_its_commit(known, tmp_path, name, same):
    assert asked(known, tmp_path, name) == git(known, "rev-parse", f"{same}^{{commit}}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch", "BASE: 'nosuch' is no revision of this repository"),
        ("", "BASE: '' is no revision of this repository"),
        ("-x", "BASE: '-x' is no revision of this repository"),
        ("--", "BASE: '--' is no revision of this repository"),
        ("mian", "BASE: 'mian' is no revision of this repository; did you mean 'main'?"),
        ("a b", "BASE: 'a b' is no revision of this repository"),
        ("ü\x1b[1m", r"BASE: 'ü\x1b[1m' is no revision of this repository"),
        ("a\0b", r"BASE: 'a\x00b' is no revision of this repository"),
        ("file.txt", "BASE: 'file.txt' is no revision of this repository: it is a path here, and ab takes a branch"),
        ("a-file", "BASE: 'a-file' is a blob, not a commit"),
        ("HEAD:", "BASE: 'HEAD:' is a tree, not a commit"),
        ("HEAD~9", "BASE: 'HEAD~9' is no revision of this repository: 'HEAD' has no such ancestor"),
        ("HEAD^2", "BASE: 'HEAD^2' is no revision of this repository: 'HEAD' has no such ancestor"),
        ("HEAD~1..HEAD", "BASE: 'HEAD~1..HEAD' is a range of commits; BASE and HEAD are one commit each"),
        ("^HEAD", "BASE: '^HEAD' is a range of commits"),
        ("HEAD^!", "BASE: 'HEAD^!' is a range of commits"),
        ("f" * 40, f"BASE: '{'f' * 40}' is no revision of this repository"),
    ],
)
def test_what_is_no_revision_is_said_in_a_line(known, tmp_path, name, said):
    found = refusal(known, tmp_path, name)
    assert found.startswith(said)
    assert "shallow" not in found


def test_a_repository_without_a_commit_says_so(tmp_path):
    git(tmp_path, "init", "u")
    said = "BASE: 'HEAD' is no revision of this repository: it has no commit yet"
    assert refusal(tmp_path / "u", tmp_path, "HEAD") == said


def test_a_clone_that_left_something_out_says_how_to_get_it(known, tmp_path):
    git(tmp_path, "clone", "--depth", "1", f"file://{known}", "shallow")
    for name in ("HEAD~1", "v1", "täst/x", git(known, "rev-parse", "HEAD~1"), "file.txt"):
        found = refusal(tmp_path / "shallow", tmp_path, name)
        assert "is no revision of this repository" in found
        assert found.endswith(
            "; this clone is shallow: `git fetch --unshallow` gets the rest (in GitHub Actions, `fetch-depth: 0` of "
            "actions/checkout)"
        )
    git(tmp_path, "clone", f"file://{known}", "whole")
    found = refusal(tmp_path / "whole", tmp_path, "täst/x")
    assert found == "BASE: 'täst/x' is no revision of this repository; did you mean 'origin/täst/x'?"
    found = refusal(tmp_path / "whole", tmp_path, "release-seven")
    assert found.endswith("is no revision of this repository; if a remote has it, `git fetch --all --tags` brings it")


def test_in_a_pre_receive_hook_the_pushed_commits_are_there(known, tmp_path):
    """Git keeps them apart until the hook has accepted them, and says where in its variables only."""
    git(tmp_path, "init", "--bare", "bare.git")
    script = "import sys; from pathlib import Path; from membench.ab.repository import Repository\n"
    script += f"scratch = Path({str(tmp_path)!r})\n"
    script += "from membench.ab.naming import commit_of; repository = Repository(Path.cwd(), scratch)\n"
    script += "commit = commit_of(repository, sys.stdin.read().split()[1], 'HEAD')\n"
    script += "repository.write(commit, scratch / 'tree'); print((scratch / 'tree/file.txt').read_text())\n"
    (tmp_path / "script.py").write_text(script)
    hook = tmp_path / "bare.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' '{tmp_path}/script.py'\n")
    hook.chmod(0o755)
    git(known, "push", str(tmp_path / "bare.git"), "main")
    assert (tmp_path / "tree/file.txt").read_text() == "3"


def test_an_ambiguous_beginning_of_a_sha_is_named_with_what_it_begins(tmp_path):
    folder = commits(tmp_path / "u", "1")
    stream = "".join(
        f"commit refs/heads/many\ncommitter a <a@b.c> {number} +0000\ndata 1\nx\n\n" for number in range(1000)
    )
    subprocess.run(["git", "fast-import", "--quiet"], input=stream, text=True, cwd=folder, check=True)
    shas = sorted(git(folder, "rev-list", "many").split())
    first, second = next((a, b) for a, b in pairwise(shas) if a[:4] == b[:4])
    found = refusal(folder, tmp_path, first[:4])
    assert re.match(rf"BASE: '{first[:4]}' is the beginning of \d+ commits \(.*{first[:8]}", found)
    assert second[:8] in found
    assert found.endswith("): give more digits")


# ---- what a side imports


def imports(tmp_path, monkeypatch, revision, code):
    """What a process of a side prints; the revision is a commit of the files {path: text}."""
    folder = tmp_path / "u"
    for path, text in revision.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            (folder / path).symlink_to("../layers")
        else:
            (folder / path).write_text(text)
    commits(folder, "any", "other")
    monkeypatch.chdir(folder)
    with checked_out(("HEAD~1", "HEAD")) as sides:
        side = sides[1].code
        (tmp_path / "asked").mkdir()
        (tmp_path / "asked/asked_module.py").write_text(code)
        first = side.home / "membench/processes/first.py"
        words = ["asked_module", "0", str(os.getpid()), *side.folders, str(tmp_path / "asked")]
        done = subprocess.run(
            [sys.executable, "-P", str(first), *words],
            capture_output=True,
            text=True,
            env={**os.environ, **side.environment},
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        return [str(sides[1].holds(line)) if line.startswith("/") else line for line in done.stdout.splitlines()]


# What first.py imports before anything is asked: a revision's own.
SPEC = {f"layers/spec/{path.name}": path.read_text() for path in sorted((ROOT / "layers/spec").glob("*.py"))}
SPEC["layers/spec/__init__.py"] += "KIND = 'theirs'\n"
FACE = f"FACE = {face.FACE}\n"
OTHER_FACE = f"FACE = {face.FACE + 1}\n"
NAMES = (
    "import membench.layers.factory, membench.layers.spec, membench.errors, layers.spec, layers.factory\n"
    "print(membench.layers.spec.KIND, membench.layers.factory.BUILT, layers.KIND)\n"
    "print(membench.layers is layers, membench.layers.spec is layers.spec)\n"
    "print(membench.layers.__file__, membench.errors.one_line('ours'), sep='\\n')"
)


def test_a_revision_of_membench_gives_its_own_layers_under_both_names(tmp_path, monkeypatch):
    short_name = (ROOT / "layers/short_name.py").read_text()
    revision = {
        **SPEC,
        "membench/__init__.py": "raise RuntimeError('the harness is ours')",
        "membench/layers": None,
        "layers/short_name.py": short_name,
        "layers/face.py": FACE,
        "layers/__init__.py": (
            "from membench.layers.short_name import alias\nfrom membench.layers.spec import KIND\n"
            "if __name__ == 'layers':\n    alias('layers', 'membench.layers')\n"
        ),
        "layers/factory.py": "from membench.layers.spec import KIND as BUILT",
    }
    assert imports(tmp_path, monkeypatch, revision, NAMES) == ["theirs theirs theirs", "True True", "True", "ours"]


@pytest.mark.parametrize("where", ["membench/running/protocol.py", "membench/protocol.py"])
def test_a_membench_whose_layers_have_another_face_measures_them_itself(tmp_path, monkeypatch, where):
    """Its own files all through: the instrument asks layers for what those of another face may not have."""
    rooms = ("membench/processes", "membench/learning")
    files = ("membench/errors.py", "membench/case.py", "membench/files.py", "membench/words.py")
    started_with = [*(path for room in rooms for path in (ROOT / room).glob("*.py")), *(ROOT / name for name in files)]
    revision = {
        **SPEC,
        **{str(path.relative_to(ROOT)): path.read_text() for path in started_with},
        "membench/__init__.py": "WHOSE = 'theirs'",
        where: f"PROTOCOL = {protocol.PROTOCOL}\n" if "running" in where else "",  # at first it had no number
        "membench/layers": None,
        "layers/__init__.py": "",
        "layers/face.py": OTHER_FACE,
    }
    code = (
        "import membench, membench.layers.spec, membench.errors\n"
        "print(membench.WHOSE, membench.layers.spec.KIND, membench.errors.__file__, sep='\\n')"
    )
    assert imports(tmp_path, monkeypatch, revision, code) == ["theirs", "theirs", "True"]


@pytest.mark.parametrize("number", [None, protocol.PROTOCOL + 1])
def test_layers_that_no_membench_here_can_measure_are_said(tmp_path, monkeypatch, number):
    revision = {"layers/__init__.py": "", "layers/spec/__init__.py": "", "membench/__init__.py": ""}
    if number is not None:
        revision |= {"membench/layers": None, "layers/face.py": OTHER_FACE}
        revision["membench/running/protocol.py"] = f"PROTOCOL = {number}\n"
    with pytest.raises(UsageError, match=r"another face .* compare it with the membench of its own time") as caught:
        imports(tmp_path, monkeypatch, revision, "")
    assert caught.value.source in ("BASE", "HEAD")


def test_a_users_own_package_of_the_short_name_is_theirs_and_ours_keeps_the_long_one(tmp_path, monkeypatch):
    revision = {"layers/__init__.py": "WHOSE = 'theirs'", "layers/spec/__init__.py": "", "membench.py": "1 / 0"}
    code = (
        "import layers, membench.layers\nfrom membench.layers.spec import spec_from\n"
        "print(layers.WHOSE, layers.__file__, membench.layers.__file__, sep='\\n')"
    )
    assert imports(tmp_path, monkeypatch, revision, code) == ["theirs", "True", "False"]


def test_any_other_revision_has_our_layers_under_both_names(tmp_path, monkeypatch):
    code = "import layers.spec, membench.layers.spec, mine\nprint(layers.spec is membench.layers.spec, mine.WHOSE)"
    revision = {"src/mine.py": "WHOSE = 'theirs'", "layers.txt": ""}
    assert imports(tmp_path, monkeypatch, revision, code) == ["True theirs"]
