"""The user's repository, read only: its commits written as plain folders elsewhere.

No worktree is registered and no lock is taken in it, so a run that is killed leaves nothing behind there,
and a repository that cannot be written serves as well. What git has to write goes to a folder of ours:
an index for each checkout, and the objects that a partial clone fetches.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from membench.git.command import GitError, git


class Repository:
    """The repository that a folder lies in; it may be bare, linked or a submodule.

    Args:
        folder: where git starts to look for it.
        scratch: a folder that git may write to.

    Attributes:
        inside: ``folder`` as seen from the top of the working tree.

    Raises:
        GitError: there is none, or git does not read it.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self._scratch = Path(tempfile.mkdtemp(prefix="git-", dir=scratch))
        found = git("rev-parse", "--absolute-git-dir", at=folder)
        objects = folder / git("rev-parse", "--git-path", "objects", at=folder)
        self.inside = Path(git("rev-parse", "--show-prefix", at=folder))
        (self._scratch / "objects/info").mkdir(parents=True)
        also = (_quoted(path.absolute()) for path in (objects, *_received()))
        (self._scratch / "objects/info/alternates").write_bytes(os.fsencode("".join(f"{path}\n" for path in also)))
        self._variables = {"GIT_DIR": found, "GIT_OBJECT_DIRECTORY": str(self._scratch / "objects")}

    def git(self, *words: str) -> str:
        """What a git command that reads says of it; raises GitError."""
        return git(*words, at=self.folder, variables=self._variables)

    def write(self, commit: str, tree: Path) -> list[str]:
        """Write a commit's files to the folder ``tree``, as a checkout here would (filters, line ends).

        Returns:
            The submodules whose commit is not to be had here: their folders are empty.

        Raises:
            GitError: a file is missing or cannot be written.
        """
        tree.mkdir(exist_ok=True)
        index = {"GIT_INDEX_FILE": str(self._scratch / f"index-{tree.name}"), "GIT_WORK_TREE": str(tree)}
        git("read-tree", "-m", "-u", commit, at=tree, variables={**self._variables, **index})
        empty = []
        for path, its_commit in self._submodules(commit):
            try:
                inner = self._submodule(path).write(its_commit, tree / path)
                empty += [f"{path}/{name}" for name in inner]
            except GitError:
                empty.append(path)
        return empty

    def _submodules(self, commit: str) -> Iterator[tuple[str, str]]:
        """(path, commit) of each submodule of a commit."""
        for line in self.git("ls-tree", "-r", "-z", commit).split("\0"):
            if line.startswith("160000 "):
                facts, _, path = line.partition("\t")
                yield path, facts.split()[2]

    def _submodule(self, path: str) -> "Repository":
        top = self.folder.joinpath(*[".."] * len(self.inside.parts), path)
        if not (top / ".git").exists():
            raise GitError(f"the submodule {path} is not checked out")
        return Repository(top, self._scratch)


def _received() -> list[Path]:
    """Where the commits of a push lie while a ``pre-receive`` hook looks at them: not in the repository yet."""
    folder = os.environ.get("GIT_QUARANTINE_PATH", "")
    return [Path(folder)] if folder else []


def _quoted(path: Path) -> str:
    """A path as a line of git's that ends at the quote, not at a line break."""
    return '"' + str(path).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
