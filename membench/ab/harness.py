"""What a side of an ab runs under: this membench with the revision's layers, or a revision of membench by itself.

One instrument on both sides is what makes them comparable, so this membench measures the revision's layers where they
have the face that it asks for (``membench.layers.face``). Layers of another face are measured by their own membench,
in the conversation that both speak (``membench.running.protocol``).
"""

import re
from pathlib import Path

from membench.ab.in_turn import SideCode
from membench.errors import UsageError
from membench.layers.face import FACE
from membench.running.protocol import PROTOCOL

_PACKAGE = Path(__file__).resolve().parent.parent  # membench
_FIRST = 1  # the number of a face, or of a protocol, from before it was written down
_SPOKEN = (1, PROTOCOL)  # 2 only adds to answers: what is asked of a side of an ab is what 1 understands


def side_code(tree: Path, inside: Path) -> SideCode:
    """The membench that measures the revision in ``tree``, and the revision's folders.

    Compiled kernels are cached for each side alone. ``inside`` is where in the repository this was called from: a
    package may lie there.

    Raises:
        UsageError: its layers have another face, and its own membench cannot be asked either.
    """
    here = tree / inside
    caches = tree.with_name(f"{tree.name}-cache")
    return SideCode(
        home=_home(tree),
        folders=tuple(str(p) for p in dict.fromkeys((here / "src", here, tree / "src", tree)) if p.is_dir()),
        environment={
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        },
    )


def _home(tree: Path) -> Path:
    """The folder of the membench that measures the revision."""
    theirs = tree / "membench" / "layers"
    if not (tree / "membench").is_dir() or not any((path / "spec").is_dir() for path in (theirs, tree / "layers")):
        return _harness(tree, (_PACKAGE / "layers").resolve())
    face = _number("FACE", theirs / "face.py")
    if face == FACE and (theirs / "spec").is_dir():
        return _harness(tree, theirs)
    protocol = _number("PROTOCOL", tree / "membench/running/protocol.py", tree / "membench/protocol.py")
    if protocol in _SPOKEN:
        return tree
    raise UsageError(
        f"is a membench whose layers have another face ({face or _FIRST}, this membench measures {FACE}), and that "
        "cannot be asked to measure them itself: compare it with the membench of its own time"
    )


def _harness(tree: Path, layers: Path) -> Path:
    """A folder with a ``membench`` that is this one but for its ``layers``."""
    home = tree.with_name(f"{tree.name}-harness")
    ours = home / "membench"
    ours.mkdir(parents=True)
    for entry in _PACKAGE.iterdir():
        if entry.name != "layers":
            (ours / entry.name).symlink_to(entry)
    (ours / "layers").symlink_to(layers, target_is_directory=True)
    return home


def _number(name: str, *files: Path) -> int | None:
    """What a revision's file says that a number is, without running it; None where it has none of the files."""
    for file in files:
        if file.is_file():
            found = re.search(rf"^{name} = (\d+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
            return int(found[1]) if found else _FIRST
    return None
