"""The commit of the membench that runs: only where its own checkout says so, or what installed it.

It may lie in a virtual environment inside somebody's repository, or be a copy in a larger one: that
repository's commit says nothing of membench. Where a commit cannot be known, why is kept beside it.
"""

import json
import sys
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from membench.git.command import GitError, git

_PACKAGE = Path(__file__).resolve().parent.parent  # membench
_NAME = "membench"
SHA_DIGITS = 10  # of a commit, wherever one is named
_SECONDS = 10
_CODE = ("membench", "layers", "scenarios")  # where a file that git does not know yet is found and run


class Commit(NamedTuple):
    """The commit of what runs, and whether it was changed since; None where it is not known.

    ``note`` says where the commit is from, if not from the checkout itself, or why there is none.
    """

    sha: str | None
    dirty: bool | None
    note: str | None = None


def running_commit(package: Path = _PACKAGE) -> Commit:
    """The commit of the membench in ``package``. A checkout that git cannot read is said once on standard error."""
    root = package.parent
    if not (root / ".git").exists() or not _is_ours(root):
        return _installed(package)
    try:
        return _checkout(root, package)
    except GitError as error:
        _say(f"membench: the commit of {root} is not known: {error}")
        return Commit(None, None, str(error))


def commit_after(before: Commit, package: Path = _PACKAGE) -> Commit:
    """The commit of a run that began at ``before``; dirty if it changed since: every round imports the code anew."""
    now = running_commit(package)
    if before.sha is None or now.sha is None or now[:2] == before[:2]:
        return before
    return Commit(before.sha, True, "the checkout was changed while this ran")


def _is_ours(root: Path) -> bool:
    """Whether a folder is a project of this name, and not one that holds a copy."""
    with suppress(OSError, ValueError):
        return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"] == _NAME
    return False


def _checkout(root: Path, package: Path) -> Commit:
    """What git says of the checkout at ``root``. Raises GitError."""
    files = [str(path.relative_to(root)) for path in (package / "__init__.py", root / "pyproject.toml")]

    def ask(*words: str) -> str:
        here_only = {"GIT_CEILING_DIRECTORIES": str(root.parent)}
        return git(*words, at=root, variables=here_only, timeout_s=_SECONDS)

    if len(ask("ls-files", "--", *files).splitlines()) < len(files):
        return Commit(None, None, "membench lies in a repository that does not track it")
    sha = ask("rev-parse", "--verify", f"--short={SHA_DIGITS}", "HEAD")
    tagged = (line.partition(" ") for line in ask("ls-files", "-v", "-z", "--", *_CODE).split("\0"))
    passed_over = [path for tag, _, path in tagged if (tag == "S" or tag.islower()) and (root / path).exists()]
    if passed_over:  # assume-unchanged, skip-worktree
        return Commit(sha, None, f"changes of {passed_over[0]} are hidden from git")
    status = ("status", "--porcelain", "--no-renames")
    changed = ask(*status, "--untracked-files=no") or ask(*status, "--untracked-files=normal", "--", *_CODE)
    return Commit(sha, bool(changed))


def _installed(package: Path) -> Commit:
    """Where there is no checkout: the commit that an installer wrote down (PEP 610), if it installed this."""
    with suppress(PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        found = distribution(_NAME)
        if Path(str(found.locate_file(_NAME))).resolve() == package:
            origin = json.loads(found.read_text("direct_url.json") or "{}")
            sha = str(origin["vcs_info"]["commit_id"])[:SHA_DIGITS]
            return Commit(sha, None, "the commit that it was installed from")
    return Commit(None, None, "not a git checkout")


@cache
def _say(line: str) -> None:
    print(line, file=sys.stderr)
