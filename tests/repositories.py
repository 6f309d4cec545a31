"""Repositories for tests, and all that lies in one: what must be the same before and after."""

import os
import shutil
import subprocess
from pathlib import Path

# Whoever runs the tests may sign commits, have hooks of their own, or call their branches otherwise.
_PLAIN = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
_WHO = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")


def git(folder, *words):
    """What a plain git prints, run as a user would; it must succeed."""
    done = subprocess.run(
        ["git", *_WHO, *words], cwd=folder, capture_output=True, text=True, env={**os.environ, **_PLAIN}
    )
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def commits(folder, *contents, file="file.txt"):
    """A repository, made if it is not there, with a commit for each content of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        git(folder, "init", "--initial-branch", "main")
    for content in contents:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
        git(folder, "add", ".")
        git(folder, "commit", "--message", content[:20] or "empty")
    return folder


def everything(folder):
    """Bytes and time of every file, and every folder, of a repository and of its working tree."""

    def state(path):
        if not path.is_file():
            return None
        read = path.name.startswith("sharedindex.")  # whose time says when it was last read
        return path.read_bytes(), None if read else path.stat().st_mtime_ns

    return {str(path): state(path) for path in Path(folder).rglob("*") if not path.is_symlink()}


def as_another_user(tmp_path, monkeypatch):
    """From now on git takes every repository for another user's."""
    real = shutil.which("git")
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "git").write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"\n')
    (shim / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(shim), prepend=os.pathsep)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
