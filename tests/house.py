"""The house as it is built: every module in its room, what a room builds on, and what each module imports.

A room is a folder, or a file that lies beside the folders. It may import what it builds on, and all that this builds
on in turn; nothing else. ``tests/test_imports.py`` holds the code against it, and ``python -m tests.draw_imports``
draws it.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What is compared. It knows nothing of the instrument.
LAYERS: dict[str, tuple[str, ...]] = {
    "spec": (),
    "short_name": (),
    "face": (),
    "initialize": (),
    "kept_dtype": (),
    "routing": ("spec",),
    "kernels": ("spec",),
    "tables": ("kernels", "initialize", "kept_dtype"),
    "parallel": ("tables",),
    "layer": ("routing", "parallel"),
    "touched": ("layer",),
    "swiglu": ("kernels", "initialize"),
    "product_keys": ("touched", "initialize"),
    "dense": ("layer", "swiglu"),
    "moe": ("touched", "swiglu"),
    "memory": ("product_keys", "swiglu"),
    "peer": ("product_keys", "swiglu"),
    "external": ("touched", "short_name"),
    "operators": ("touched", "swiglu"),
    "own_layers": ("dense", "moe", "memory", "peer"),
    "models": ("own_layers",),
    "factory": ("models", "external", "operators"),
    "optim": ("layer",),
    "checkpoint_digests": (),
    "sharded_checkpoint": ("optim", "checkpoint_digests"),
    "checking": ("factory", "optim"),
    "public": ("checking", "sharded_checkpoint"),
    "__init__": ("public", "face"),
}

_GROUND = ("words", "errors", "json_values", "files", "learning", "case", "yaml_files", "git", "processes")
# The instrument. Above the ground one chain measures (machine to running) and one reads what was measured.
MEMBENCH: dict[str, tuple[str, ...]] = {
    "words": (),
    "errors": (),
    "json_values": (),
    "files": ("errors",),
    "learning": ("files",),
    "case": ("learning",),
    "yaml_files": ("files",),
    "git": (),
    "processes": ("case", "errors"),
    "machine": _GROUND,
    "scenario": _GROUND,
    "results": ("machine",),
    "planning": ("scenario", "results"),
    "measuring": ("planning",),
    "running": ("measuring", "__init__"),
    "gate": ("results",),
    "tables": ("planning", "gate"),
    "report": ("tables", "__init__"),
    "training": ("running",),
    "profiler": ("running",),
    "ab": ("running", "gate"),
    "cli": ("report", "training", "profiler", "ab"),
    "__main__": ("cli",),
    "__init__": ("results",),
}
HOUSES = {"membench.layers": LAYERS, "membench": MEMBENCH}


def modules(folder: str) -> list[Path]:
    """The Python files of a folder of the repository; ``membench/layers`` is a link to ``layers``."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(ROOT / "membench/layers"))


def name_of(path: Path) -> str:
    """A module's long name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("membench", *parts) if parts[0] == "layers" else parts).removesuffix(".__init__")


def room_of(name: str) -> tuple[str, str]:
    """The house that a module of ours is in, and its room."""
    house = next(house for house in HOUSES if f"{name}.".startswith(f"{house}."))
    return house, name.removeprefix(house).removeprefix(".").split(".")[0] or "__init__"


def may_import(house: str, room: str) -> set[str]:
    """The rooms that a room builds on, directly or through others, and itself."""
    found, waiting = {room}, [room]
    while waiting:
        below = set(HOUSES[house][waiting.pop()]) - found
        found |= below
        waiting += below
    return found


@cache
def imported(path: Path) -> frozenset[str]:
    """Absolute names of everything that a file imports, also inside functions, but not for type checking."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _is_module(submodule) else node.module


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imports_of_ours(path: Path) -> set[str]:
    """The modules of ours that a file imports."""
    return {name for name in imported(path) if name.split(".")[0] == "membench"}


def arrows() -> dict[tuple[str, str], dict[tuple[str, str], list[str]]]:
    """Which room imports which, and by which files: {room: {imported room: ["file -> module", ...]}}."""
    found: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}
    for path in [*modules("layers"), *modules("membench")]:
        here = room_of(name_of(path))
        drawn = found.setdefault(here, {})
        for name in sorted(imports_of_ours(path)):
            if (there := room_of(name)) != here:
                drawn.setdefault(there, []).append(f"{path.relative_to(ROOT)} -> {name}")
    return found
