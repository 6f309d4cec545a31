"""Imports run one way (spec <- kernels <- layers <- membench), and the light commands never load torch.

``layers`` is imported as ``membench.layers`` by our own code: the short name may be a user's own package.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each part of the house may import of the house: the chains of docs/design, first match wins.
CHAIN = [
    "errors",
    "device",
    "datasheet",
    "case",
    "records",
    "gate",
    "report",
    "scenario",
    "budget",
    "fit",
    "plan",
    "worker",
    "runner",
    "session",
    "profiler",
    "ab",
    "cli",
]


def modules(folder):
    return sorted(path for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(ROOT / "membench/layers"))


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imported(path):
    """Absolute names of everything a file imports, also inside functions, but not for type checking."""
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
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if is_module(submodule) else node.module


def top(names):
    """The packages that are imported; ``layers`` is one of its own."""
    return {"layers" if name.startswith("membench.layers") else name.split(".")[0] for name in names}


def of_ours(names):
    return [name for name in names if name.split(".")[0] == "membench"]


@pytest.mark.parametrize("path", modules("layers/spec"), ids=lambda p: p.name)
def test_spec_imports_no_torch(path):
    names = set(imported(path))
    assert not top(names) & {"torch", "numpy", "triton", "membench"}
    assert all(name.startswith("membench.layers.spec") for name in of_ours(names))


@pytest.mark.parametrize("path", modules("layers/kernels"), ids=lambda p: p.name)
def test_kernels_know_no_layer(path):
    allowed = ("membench.layers.kernels", "membench.layers.spec")
    assert all(name.startswith(allowed) for name in of_ours(set(imported(path))))


@pytest.mark.parametrize("path", modules("layers"), ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_know_nothing_of_measuring(path):
    assert "membench" not in top(imported(path))


@pytest.mark.parametrize("path", modules("layers") + modules("membench") + modules("benchmarks"), ids=str)
def test_the_short_name_is_left_to_users(path):
    assert not [name for name in imported(path) if name.split(".")[0] == "layers"]


def position(name):
    """Where a membench module stands in the chain; None for those beside it."""
    part = name.removeprefix("membench.").split(".")[0]
    return CHAIN.index(part) if part in CHAIN else None


@pytest.mark.parametrize("path", modules("membench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_membench_imports_run_forward(path):
    own = position(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own is None:
        return
    later = [n for n in imported(path) if n.startswith("membench.") and (position(n) or 0) > own]
    assert not later, f"{path.name} imports what comes after it: {later}"


def test_no_import_cycles():
    graph = {}
    for folder, prefix in (("layers", "membench."), ("membench", "")):
        for path in modules(folder):
            name = prefix + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = set(imported(path))
    known = set(graph)
    graph = {name: names & known - {name} for name, names in graph.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"import cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize(
    "command",
    [["--help"], ["plan", "iso_flop_8b"], ["plan", "quickstart", "--json"], ["list"], ["schema"]],
    ids=lambda c: " ".join(c),
)
def test_light_commands_never_import_torch(command):
    code = (
        "import sys\nfrom membench.cli import main\nsys.argv = ['membench', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_layers_is_reachable_as_membench_layers():
    import layers
    import layers.spec.cost
    import membench.layers
    import membench.layers.spec.cost

    assert membench.layers is layers
    assert membench.layers.spec.cost is layers.spec.cost
    assert layers.spec.cost.__spec__.name == "membench.layers.spec.cost"
