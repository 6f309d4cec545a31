"""Git revisions as folders, and the environment in which one of them is what is measured.

What differs between the sides is what a revision holds: ``layers``, or the package of a layer from outside. This
membench measures both, as far as it can (``membench.ab.harness``).
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from membench.ab.harness import side_code
from membench.ab.in_turn import SideCode
from membench.ab.naming import commit_of
from membench.ab.repository import Repository
from membench.errors import UsageError, shown
from membench.git.command import GitError, GitRefused, git
from membench.git.commit import SHA_DIGITS

_SIDES = (("base", "BASE"), ("head", "HEAD"))


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit, written to a folder of its own."""

    name: str
    sha: str
    tree: Path
    code: SideCode

    def holds(self, file: str) -> bool:
        """Whether a file was imported from this revision."""
        return Path(file).resolve().is_relative_to(self.tree.resolve())


@contextmanager
def checked_out(names: tuple[str, str]) -> Iterator[tuple[Revision, Revision]]:
    """Both revisions of the repository here, in folders that are gone afterwards; the repository is only read.

    Raises:
        UsageError: this is no git repository, it has no such revision, or one of its files is not to be had.
    """
    with tempfile.TemporaryDirectory(prefix="membench-ab-", ignore_cleanup_errors=True) as folder:
        try:
            repository = Repository(Path.cwd(), Path(folder))
        except GitError as error:
            raise _no_repository(error) from None
        commits = [commit_of(repository, name, option) for name, (_, option) in zip(names, _SIDES, strict=True)]
        found = [
            _revision(repository, name, commit, Path(folder, side), option)
            for name, commit, (side, option) in zip(names, commits, _SIDES, strict=True)
        ]
        yield found[0], found[1]


def uncommitted_changes() -> bool:
    """Whether a file that git knows was changed since the last commit; False in a bare repository."""
    here = Path.cwd()
    try:
        if git("rev-parse", "--is-inside-work-tree", at=here) != "true":
            return False
        return bool(git("status", "--porcelain", "--no-renames", "--untracked-files=no", at=here))
    except GitError as error:
        raise _no_repository(error) from None


def _revision(repository: Repository, name: str, commit: str, tree: Path, option: str) -> Revision:
    try:
        empty = repository.write(commit, tree)
    except GitError as error:
        raise UsageError(f"{shown(name)} cannot be checked out ({error})", source=option) from None
    if empty:
        without = f"without its submodules {', '.join(empty)}, which are not here at that commit"
        print(f"membench: {option} {name}: {without}", file=sys.stderr)
    try:
        code = side_code(tree, repository.inside)
    except UsageError as error:
        raise UsageError(f"{shown(name)} {error.problem}", source=option) from None
    if code.home == tree:
        why = "measured by its own membench, whose layers have another face than this one's"
        print(f"membench: {option} {name}: {why}", file=sys.stderr)
    return Revision(name, commit[:SHA_DIGITS], tree, code)


def _no_repository(error: GitError) -> UsageError:
    problem = "is no git repository; ab compares two of its revisions"
    return UsageError(str(error) if isinstance(error, GitRefused) else f"{problem} ({error})", source=str(Path.cwd()))
