"""Imports run one way, as ``tests/house.py`` has them, and the light commands never load torch.

``layers`` is imported as ``membench.layers`` by our own code: the short name may be a user's own package.
"""

import subprocess
import sys

import draw_imports
import house
import pytest
from house import ROOT, imported, imports_of_ours, modules

OURS = modules("layers") + modules("membench")


def top(names):
    """The packages that are imported; ``layers`` is one of its own."""
    return {"layers" if name.startswith("membench.layers") else name.split(".")[0] for name in names}


def test_every_module_is_in_a_room_and_imports_only_what_the_room_builds_on():
    assert draw_imports.faults() == []


def test_the_instrument_has_few_rooms():
    assert len({room for where, room in house.arrows() if where == "membench"}) < 25


def test_the_plan_of_the_house_has_no_room_that_is_not_built():
    built = set(house.arrows())
    assert {(where, room) for where, rooms in house.HOUSES.items() for room in rooms} == built


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("membench/gate/x.py", "from membench.running.run import run_scenario", "gate/x.py -> membench.running.run"),
        ("membench/x.py", "", "membench.x is in no room"),
        (
            "layers/kernels/x.py",
            "def f():\n    import membench.layers.moe",
            "layers/kernels/x.py -> membench.layers.moe",
        ),
        ("layers/x/y.py", "import membench.errors", "membench.layers.x is in no room"),
        ("layers/optim/x.py", "from membench.case import Case", "optim/x.py -> membench.case"),
    ],
)
def test_what_the_house_does_not_allow_is_said(file, text, says, tmp_path, monkeypatch):
    for path in OURS:
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text())
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    assert any(says in fault for fault in draw_imports.faults())


def test_no_two_files_import_each_other_in_a_circle():
    graph = {house.name_of(path): imports_of_ours(path) - {house.name_of(path)} for path in OURS}
    while ends := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in ends:
            del graph[name]
    assert not graph, f"on or above a circle: {sorted(graph)}"


def test_anyone_can_draw_the_house():
    done = subprocess.run([sys.executable, "-m", "tests.draw_imports"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "No circle, no arrow upward, no module outside a room." in done.stdout


@pytest.mark.parametrize("path", modules("layers/spec"), ids=lambda p: p.name)
def test_spec_imports_no_torch(path):
    names = imported(path)
    assert not top(names) & {"torch", "numpy", "triton", "membench"}
    assert all(name.startswith("membench.layers.spec") for name in imports_of_ours(path))


@pytest.mark.parametrize("path", modules("layers") + modules("membench") + modules("benchmarks"), ids=str)
def test_the_short_name_is_left_to_users(path):
    assert not [name for name in imported(path) if name.split(".")[0] == "layers"]


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
