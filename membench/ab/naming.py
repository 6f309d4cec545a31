"""A revision as the user names it, and why there is none of that name: what would help differs."""

import re
from collections.abc import Callable
from pathlib import Path

from membench.ab.repository import Repository
from membench.errors import UsageError, shown, suggestion
from membench.git.command import GitError

_NO_REVISION = "is no revision of this repository"
_UNSHALLOW = (
    "this clone is shallow: `git fetch --unshallow` gets the rest (in GitHub Actions, `fetch-depth: 0` of "
    "actions/checkout)"
)
_MOST_COMMITS = 4  # that an ambiguous name is told to begin


def commit_of(repository: Repository, name: str, option: str) -> str:
    """The commit that a name stands for: a branch, a tag, a sha, ``HEAD~3``, ``main@{yesterday}``.

    Raises:
        UsageError: there is none, or it is more than one; the message names ``option`` and what would help.
    """
    if not name or name.startswith("-"):
        raise UsageError(f"{shown(name)} {_NO_REVISION}", source=option)
    found = _asked(repository, "-c", "core.disambiguate=committish", "rev-parse", "--verify", "--quiet", name)
    if found and not found.startswith("^"):
        # In two steps: what is appended to ":/text" or "HEAD:file" would be part of the text, or of the path.
        commit = _asked(repository, "rev-parse", "--verify", "--quiet", f"{found}^{{commit}}")
        if commit:
            return commit
    raise UsageError(f"{shown(name)} {_why(repository, name)}", source=option)


def _asked(repository: Repository, *words: str) -> str:
    """What git says; empty where it knows nothing."""
    try:
        return repository.git(*words)
    except GitError:
        return ""


def _why(repository: Repository, name: str) -> str:
    reasons: tuple[Callable[[Repository, str], str | None], ...] = (
        _no_commit_yet,
        _another_object,
        _a_range,
        _ambiguous,
        _too_far_back,
        _a_branch_of_a_remote,
        _a_path,
    )
    for reason in reasons:
        if found := reason(repository, name):
            return found
    return f"{_NO_REVISION}; {_cut_off(repository) or _near(repository, name)}".removesuffix("; ")


def _no_commit_yet(repository: Repository, name: str) -> str | None:
    del name
    if _asked(repository, "rev-parse", "--verify", "--quiet", "HEAD"):
        return None
    if _asked(repository, "rev-list", "--all", "--max-count=1"):
        return None
    return f"{_NO_REVISION}: it has no commit yet"


def _another_object(repository: Repository, name: str) -> str | None:
    kind = _asked(repository, "cat-file", "-t", f"{name}^{{}}") or _asked(repository, "cat-file", "-t", name)
    return f"is a {kind}, not a commit" if kind in ("blob", "tree") else None


def _a_range(repository: Repository, name: str) -> str | None:
    found = _asked(repository, "rev-parse", "--revs-only", name).split()
    if len(found) > 1 or any(sha.startswith("^") for sha in found):
        return "is a range of commits; BASE and HEAD are one commit each"
    return None


def _ambiguous(repository: Repository, name: str) -> str | None:
    if not re.fullmatch("[0-9a-f]{4,39}", name):
        return None
    begun = _asked(repository, "rev-parse", f"--disambiguate={name}").split()
    commits = sorted(sha for sha in begun if _asked(repository, "cat-file", "-t", sha) == "commit")
    if len(commits) < 2:
        return None
    shas = [sha[: len(name) + 4] for sha in commits[:_MOST_COMMITS]]
    more = ", …" if len(commits) > _MOST_COMMITS else ""
    return f"is the beginning of {len(commits)} commits ({', '.join(shas)}{more}): give more digits"


def _too_far_back(repository: Repository, name: str) -> str | None:
    parts = re.fullmatch(r"(.+?)(?:[~^]\d*)+", name)
    if parts is None or not _asked(repository, "rev-parse", "--verify", "--quiet", parts[1]):
        return None
    return f"{_NO_REVISION}: {shown(parts[1])} has no such ancestor{_and(_cut_off(repository))}"


def _a_branch_of_a_remote(repository: Repository, name: str) -> str | None:
    found = _asked(repository, "for-each-ref", "--format=%(refname:short)", f"refs/remotes/*/{name}").split()
    return f"{_NO_REVISION}; did you mean {' or '.join(map(repr, found))}?" if found else None


def _a_path(repository: Repository, name: str) -> str | None:
    if "\0" in name or not (repository.folder / Path(name)).exists():
        return None
    return f"{_NO_REVISION}: it is a path here, and ab takes a branch, a tag or a commit{_and(_cut_off(repository))}"


def _cut_off(repository: Repository) -> str:
    """What to do where history was left out of a clone; empty where all of it is here."""
    return _UNSHALLOW if _asked(repository, "rev-parse", "--is-shallow-repository") == "true" else ""


def _near(repository: Repository, name: str) -> str:
    refs = _asked(repository, "for-each-ref", "--format=%(refname:short)").split()
    near = suggestion(name, refs)
    if near.startswith("did you mean"):
        return near
    remotes = _asked(repository, "remote")
    return "if a remote has it, `git fetch --all --tags` brings it" if remotes else ""


def _and(hint: str) -> str:
    return f"; {hint}" if hint else ""
