"""Git as membench starts it: it reads the repository of a folder, whoever called us, and leaves it as it was.

Git hands its own state down to hooks, to ``rebase --exec`` and to what an alias starts: whose index,
whose objects, which repository. A git of ours that took it over would write into the caller's commit.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

# What a variable of git's may say: where its configuration lies, how it reaches a remote, how far up it looks.
# All others are the caller's state, or change what git prints (traces, pagers, pathspecs).
_KEPT = re.compile(
    "GIT_(CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|EXEC_PATH|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM"
    "|ALLOW_PROTOCOL|(SSH|SSL|HTTP|PROXY|LFS)(_.*)?)"
)
_OWN = {
    "GIT_OPTIONAL_LOCKS": "0",  # else `status` writes the index anew
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",  # some of its words are looked for below
}
# Settings of the user's that would run programs, write beside an index, or leave files out.
_SETTINGS = (
    f"core.hooksPath={os.devnull}",  # every write of any index runs post-index-change
    "hook.post-index-change.enabled=false",  # the same where hooks are configured (git 2.55)
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",  # the shared half would lie in the user's repository
    "core.sparseCheckout=false",
    "core.symlinks=true",  # what the user's file system can hold says nothing of ours
    "submodule.recurse=false",
    "gc.auto=0",  # after a fetch of what a partial clone has not got
    "maintenance.auto=false",
    "color.ui=false",
)
_REFUSALS = ("dubious ownership", "unsafe repository")


class GitError(RuntimeError):
    """Git could not be run, or ended with an error; ``str`` is why, in a line."""


class GitRefused(GitError):
    """Git does not read this repository, because another user owns it."""


def git(*words: str, at: Path, variables: Mapping[str, str] | None = None, timeout_s: float | None = None) -> str:
    """What a git command prints, without its last line break.

    Args:
        words: the command and its options.
        at: the folder that it runs in.
        variables: variables of git's that this call wants (``GIT_INDEX_FILE``).
        timeout_s: how long it may take; None: as long as it takes.

    Raises:
        GitRefused: another user owns the repository.
        GitError: anything else that went wrong.
    """
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", *settings, *words],
            cwd=at,
            env={**_environment(), **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"git {words[0]} did not answer within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte among the words
        raise GitError(f"git cannot be run ({getattr(error, 'strerror', None) or error})") from None
    if done.returncode:
        raise _failure(os.fsdecode(done.stderr), done.returncode)
    return os.fsdecode(done.stdout).removesuffix("\n")


def _environment() -> dict[str, str]:
    """This process's, without what git or a user has said to other calls of git."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _KEPT.fullmatch(name)}
    return {**ours, **_OWN}


def _failure(stderr: str, code: int) -> GitError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any(words in stderr for words in _REFUSALS):
        allow = lines[-1] if "safe.directory" in lines[-1] else "git config --global --add safe.directory FOLDER"
        return GitRefused(f"git refuses a repository that another user owns; `{allow}` lets it")
    told = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return GitError((told or lines or [f"git ended with exit code {code}"])[-1])
