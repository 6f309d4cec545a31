"""How many launches a step takes on a GPU, counted without one; and that the host waits for none of them."""

import subprocess
import sys

import pytest
import torch
from house import ROOT

from layers.kernels.lookups import find_runs

pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")

from membench.profiler.launches.steps import KINDS, MODES, launches_of_step, spec_of, step_launches
from membench.profiler.launches.tracing import HostWaits, launches_of, on_hopper

# A change that adds a launch says why here. In order of MODES.
MOST = {
    "memory": (5, 20, 22),
    "memory_plus": (11, 38, 40),
    "peer": (8, 31, 33),
    "moe": (15, 33, 35),  # with the gradients of the router's loss, as a step is measured
    "dense": (3, 8, 10),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_launches_no_more_than_it_did(kind, mode):
    found = step_launches(kind, mode)
    assert len(found) <= MOST[kind][MODES.index(mode)], [(each.stage, each.name) for each in found]


@pytest.mark.parametrize("imposed", [False, True], ids=["routed", "imposed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_training_step_is_the_same_in_every_turn(kind, imposed):
    """No host waits in it, and each launch is given the same numbers again: a replay of them is the next step."""
    spec = spec_of(kind)
    for optimizer in ("row_adam", "lazy_adam"):
        second, third = (
            launches_of_step(spec, "train_step", 64, optimizer, captured=True, imposed=imposed, before=steps)
            for steps in (1, 2)
        )
        assert second == third
        clocks = [each.name for each in second if each.name == "advance"]
        assert len(clocks) == spec.row_tables if kind in ("memory", "memory_plus", "peer") else not clocks


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_an_update_is_given_no_number_of_its_own(kind, mode):
    assert len({tuple(launches_of_step(spec_of(kind), mode, 64, before=steps)) for steps in (1, 2)}) == 1


def test_an_eager_step_is_given_its_number():
    """That is what a captured one must not be, and what the test above would find."""
    second, third = (launches_of_step(spec_of("memory"), "train_step", 64, "row_adam", before=n) for n in (1, 2))
    differ = {one.name for one, other in zip(second, third, strict=True) if one != other}
    assert differ == {"short_runs", "finish_long_runs"}


def test_kernels_and_products_are_where_they_belong():
    found = [(each.stage, each.name) for each in step_launches("memory", "forward")]
    assert [each for each in found if each[1] in ("mm", "bmm", "_product_key_top_k", "bag")] == [
        ("query", "mm"),
        ("scores", "bmm"),
        ("top_k", "_product_key_top_k"),
        ("bag", "bag"),
    ]


@pytest.mark.parametrize(
    "waits",
    [lambda x: find_runs(x, 4).exact(), torch.nonzero, torch.unique, torch.Tensor.tolist, torch.Tensor.cpu, bool],
)
def test_what_the_host_waits_for_is_found(waits):
    with on_hopper(), pytest.raises(HostWaits):
        launches_of(lambda: waits(torch.zeros(1, dtype=torch.int64, device="meta")))


def test_what_a_backward_pass_launches_belongs_to_the_stage_whose_gradient_it_is():
    found = {(each.stage, each.backward, each.name) for each in step_launches("memory", "forward_backward")}
    expected = {("query", "mm"), ("scores", "bmm"), ("top_k", "_scores_gradient"), ("bag", "short_runs")}
    assert {(stage, name) for stage, backward, name in found if backward} >= expected
    assert not {("bag", False, "short_runs"), ("rest", False, "mm")} & found


def test_another_fault_stays_what_it_is():
    with on_hopper(), pytest.raises(RuntimeError, match="broadcast"):
        launches_of(lambda: torch.zeros(3, device="meta") + torch.zeros(4, device="meta"))


def test_views_and_new_memory_are_no_launches():
    with on_hopper():
        x = torch.empty(4, 6, device="meta")
        assert not launches_of(lambda: x.view(2, 12).t()[1:].expand(3, 11, 2).to(torch.float32).contiguous)
        assert not launches_of(lambda: torch.empty_like(x).new_empty(3))
        found = launches_of(lambda: x.t().contiguous().mul_(2))
    assert [(each.name, each.work.moved_bytes) for each in found] == [("clone", 2 * 96), ("mul_", 2 * 96)]


def test_the_command_line():
    command = [sys.executable, "-m", "membench.profiler.launches"]
    done = subprocess.run([*command, "dense"], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(MODES), done.stderr
    refused = subprocess.run([*command, "denes"], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert refused.returncode == 2 and "denes: should be one of memory," in refused.stderr
