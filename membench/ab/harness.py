"""What a side of an ab runs under: this membench, with the revision's layers in place of ours where it has them."""

from pathlib import Path

from membench.ab.duel import SideCode

_PACKAGE = Path(__file__).resolve().parent.parent  # membench
_OUR_LAYERS = (_PACKAGE / "layers").resolve()


def make_harness(folder: Path, tree: Path) -> None:
    """Make ``folder``, with a ``membench`` whose ``layers`` are those of the revision in ``tree``, or ours."""
    ours = folder / "membench"
    ours.mkdir(parents=True)
    for entry in _PACKAGE.iterdir():
        if entry.name != "layers":
            (ours / entry.name).symlink_to(entry)
    layers = _layers_of(tree)
    if layers is not None and layers == tree / "layers":  # from before they were imported as membench.layers
        (ours / "layers").mkdir()
        (ours / "layers" / "__init__.py").symlink_to(_PACKAGE / "ab" / "former_layers.py")
        (ours / "layers" / "former").symlink_to(layers, target_is_directory=True)
        (ours / "layers" / "short_name.py").symlink_to(_OUR_LAYERS / "short_name.py")
    else:
        (ours / "layers").symlink_to(layers or _OUR_LAYERS, target_is_directory=True)


def _layers_of(tree: Path) -> Path | None:
    """The layers of a revision of membench itself; None of any other."""
    known = (tree / "membench" / "layers", tree / "layers") if (tree / "membench").is_dir() else ()
    return next((path for path in known if (path / "spec").is_dir()), None)


def side_code(tree: Path, inside: Path) -> SideCode:
    """The harness, and the revision's folders; compiled kernels are cached for each side alone.

    ``inside`` is where in the repository this was called from: a package may lie there.
    """
    here = tree / inside
    harness = tree.with_name(f"{tree.name}-harness")
    make_harness(harness, tree)
    caches = tree.with_name(f"{tree.name}-cache")
    return SideCode(
        home=harness,
        folders=tuple(str(p) for p in dict.fromkeys((here / "src", here, tree / "src", tree)) if p.is_dir()),
        environment={
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        },
    )
