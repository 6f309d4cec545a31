"""Git revisions as folders, and the environment in which one of them is what is measured.

The harness is the same for both sides: this membench. What differs is all that a worktree holds
besides (``layers``, or the package of a layer from outside).
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from membench.ab.duel import SideCode
from membench.errors import UsageError, shown

_PACKAGE = Path(__file__).resolve().parent.parent
_SHA_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit, checked out in a folder of its own."""

    name: str
    sha: str
    tree: Path
    code: SideCode

    def holds(self, file: str) -> bool:
        """Whether a file was imported from this revision."""
        return Path(file).resolve().is_relative_to(self.tree.resolve())


@contextmanager
def checked_out(names: tuple[str, str]) -> Iterator[tuple[Revision, Revision]]:
    """Both revisions of the repository here, in worktrees that are gone afterwards.

    Raises:
        UsageError: this is no git repository, or it has no such revision.
    """
    root = Path(_git("rev-parse", "--show-toplevel", problem="is no git repository; ab compares two of its revisions"))
    shas = tuple(_resolve(name, option) for name, option in zip(names, ("BASE", "HEAD"), strict=True))
    with tempfile.TemporaryDirectory(prefix="membench-ab-") as folder:
        trees = [Path(folder, side) for side in ("base", "head")]
        try:
            for tree, sha in zip(trees, shas, strict=True):
                _git("worktree", "add", "--detach", str(tree), sha, problem="cannot be checked out")
            inside = Path.cwd().resolve().relative_to(root.resolve())
            found = [
                Revision(name, sha[:_SHA_DIGITS], tree, _code(tree, inside))
                for name, sha, tree in zip(names, shas, trees, strict=True)
            ]
            yield found[0], found[1]
        finally:
            for tree in trees:
                subprocess.run(["git", "worktree", "remove", "--force", str(tree)], capture_output=True, cwd=root)
            subprocess.run(["git", "worktree", "prune"], capture_output=True, cwd=root)


def uncommitted_changes() -> bool:
    """Whether a file that git knows was changed since the last commit."""
    return bool(_git("status", "--porcelain", "--untracked-files=no", problem="is no git repository"))


def _harness(tree: Path) -> Path:
    """A folder with this membench, and its ``layers`` unless the revision is one of membench's own."""
    harness = tree.with_name(f"{tree.name}-harness")
    package = harness / "membench"
    package.mkdir(parents=True)
    layers = tree / "layers" if (tree / "layers" / "spec").is_dir() else _PACKAGE / "layers"
    (package / "layers").symlink_to(layers, target_is_directory=True)
    for entry in _PACKAGE.iterdir():
        if entry.name not in ("layers", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    return harness


def _code(tree: Path, inside: Path) -> SideCode:
    """The harness and the revision's folders; compiled kernels are cached for each side alone.

    ``inside`` is where in the repository this was called from: a package may lie there.
    """
    here = tree / inside
    folders = dict.fromkeys((here / "src", here, tree / "src", tree))
    caches = tree.with_name(f"{tree.name}-cache")
    return SideCode(
        home=_harness(tree),
        folders=tuple(str(path) for path in folders if path.is_dir()),
        environment={
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        },
    )


def _resolve(name: str, option: str) -> str:
    problem = f"{shown(name)} is no revision of this repository"
    if name.startswith("-"):
        raise UsageError(problem, source=option)
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", problem=problem, source=option)


def _git(*words: str, problem: str, source: str = "") -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True)
    except OSError as error:
        raise UsageError(f"git cannot be run ({error.strerror})", source="membench ab") from None
    if done.returncode:
        why = done.stderr.strip().splitlines()
        detail = f" ({why[-1]})" if why and not source else ""
        raise UsageError(f"{problem}{detail}", source=source or str(Path.cwd()))
    return done.stdout.strip()
