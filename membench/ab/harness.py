"""What a side of an ab runs under: this membench, with the revision's layers in place of ours where it has them."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent  # membench
_OUR_LAYERS = (_PACKAGE / "layers").resolve()


def make_harness(folder: Path, tree: Path, packages: list[Path]) -> None:
    """Fill ``folder`` so that, first on the path, it gives ``membench`` and (unless a user's own) ``layers``.

    Args:
        folder: made here.
        tree: the files of the revision.
        packages: the folders in it that packages of the revision's are imported from.
    """
    ours = folder / "membench"
    ours.mkdir(parents=True)
    for entry in _PACKAGE.iterdir():
        if entry.name != "layers":
            (ours / entry.name).symlink_to(entry)
    layers = _layers_of(tree)
    if layers == tree / "layers":  # from before they were imported as membench.layers
        (ours / "layers").mkdir()
        (ours / "layers" / "__init__.py").symlink_to(_PACKAGE / "ab" / "former_layers.py")
        (ours / "layers" / "short_name.py").symlink_to(_OUR_LAYERS / "short_name.py")
    else:
        (ours / "layers").symlink_to(layers or _OUR_LAYERS, target_is_directory=True)
    if layers or not any(_has_layers(package) for package in packages):
        (folder / "layers").symlink_to(layers or _OUR_LAYERS, target_is_directory=True)


def _layers_of(tree: Path) -> Path | None:
    """The layers of a revision of membench itself; None of any other."""
    known = (tree / "membench" / "layers", tree / "layers") if (tree / "membench").is_dir() else ()
    return next((path for path in known if (path / "spec").is_dir()), None)


def _has_layers(folder: Path) -> bool:
    """Whether a user's own ``layers`` is imported from here: the short name is theirs then."""
    return (folder / "layers").is_dir() or (folder / "layers.py").exists()


def side_environment(tree: Path, inside: Path) -> dict[str, str]:
    """What Python finds first: the harness, then the revision; compiled kernels are cached for each side alone.

    ``inside`` is where in the repository this was called from: a package may lie there.
    """
    here = tree / inside
    folders = [path for path in dict.fromkeys((here / "src", here, tree / "src", tree)) if path.is_dir()]
    harness = tree.with_name(f"{tree.name}-harness")
    make_harness(harness, tree, folders)
    given = os.environ.get("PYTHONPATH")
    caches = tree.with_name(f"{tree.name}-cache")
    return {
        "PYTHONPATH": os.pathsep.join([*map(str, [harness, *folders]), *([given] if given else [])]),
        "PYTHONSAFEPATH": "1",  # else the folder this was called from would come before both
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
    }
