"""Budgets are solved once in a command: what is asked alike, of whatever arm and point, is not solved again."""

import json

import pytest

from membench.errors import UsageError
from membench.files import read_file
from membench.planning import latency, solved_arms
from membench.planning.planner import make_plan
from membench.planning.solved_arms import solve_points
from membench.planning.solver import solve
from membench.running.run import plan_here
from membench.scenario.scenario import load_scenario, parse_scenario

DENSE = """
schema_version: 1
name: budgets
model_dim: 256
dtype: float32
arms:
  dense: {layer: dense}
"""


@pytest.fixture
def solves(monkeypatch):
    """What was solved, in order."""
    found = []

    def counted(kind, given, asks):
        found.append((kind, sorted(given.items()), asks))
        return solve(kind, given, asks)

    monkeypatch.setattr(solved_arms, "solve", counted)
    return found


@pytest.mark.parametrize("name", ["decode", "routing_skew", "iso_flop_8b"])
def test_what_arms_and_points_ask_alike_is_solved_once(solves, name):
    scenario = load_scenario(name)
    make_plan(scenario)
    assert solves
    asked = [(kind, given, [(ask.budget, ask.value) for ask in asks]) for kind, given, asks in solves]
    assert not [each for each in asked if asked.count(each) > 1], "of these budgets none depends on the workload"
    kinds = {arm.kind for point in scenario.points for arm in point.arms.values()}
    assert {kind for kind, _, _ in solves} == kinds


def test_points_that_ask_for_something_else_are_solved_anew(solves):
    sizes = "axes={budgets.flops_per_token: [10M, 20M, 10M]}"
    points = solve_points(parse_scenario(DENSE, "b.yaml", [sizes]).points)
    assert [point["dense"].spec.ffn_hidden for point in points] == [6528, 12992, 6528]
    assert len(solves) == 2
    skew = "axes={workload.routing.zipf_exponent: [0.5, 1.5]}"
    moved = "budgets={moved_bytes: {value: 40MB, tokens: 64}}"
    arms = "arms={memory: {layer: memory, num_keys: 1M, key_dim: 64}}"
    overrides = [arms, moved, "workload.routing={kind: zipf}", skew]
    even, skewed = solve_points(parse_scenario(DENSE, "b.yaml", overrides).points)
    assert even["memory"].spec.companion_hidden < skewed["memory"].spec.companion_hidden, "it moves fewer rows"


def test_a_run_solves_its_budgets_once(solves, monkeypatch, call):
    plans = []

    def run_scenario(scenario, arms, *_, **__):
        plans.append(plan_here(scenario, {"device": {"type": "cpu", "name": "cpu", "cache_bytes": 0}}, solved=arms))
        raise UsageError("measured enough")

    monkeypatch.setattr("membench.running.run.run_scenario", run_scenario)
    code, _, err = call("run", "quickstart")
    assert (code, "measured enough" in err) == (2, True)
    assert plans[0].cases
    assert len(solves) == len(load_scenario("quickstart").arms)
    assert plans == [make_plan(load_scenario("quickstart"), available_bytes=int(plans[0].available_bytes))]


def test_measured_files_are_read_once(tmp_path, monkeypatch):
    layer = {"kind": "dense", "model_dim": 256, "dtype": "float32"}
    case = {"mode": "forward", "tokens": 32, "ranks": 1}
    sizes = {1024: 1.0, 2048: 3.0}
    records = [
        {"case": {**case, "layer": {**layer, "ffn_hidden": f}}, "status": "ok", "metrics": {"latency_ms_p50": ms}}
        for f, ms in sizes.items()
    ]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"cases": records}))
    reads = []
    monkeypatch.setattr(latency, "read_file", lambda name, *more: reads.append(name) or read_file(name, *more))
    budget = json.dumps({"latency_ms": {"value": 1, "measured": [str(path)]}})
    arms = ", ".join(f"{name}: {{layer: dense, budgets: {budget}}}" for name in ("one", "two"))
    scenario = parse_scenario(DENSE, "b.yaml", [f"arms={{{arms}}}", "axes={workload.seed: [1, 2]}"])
    assert [arms["two"].spec.ffn_hidden for arms in solve_points(scenario.points)] == [1024, 1024]
    assert reads == [str(path)]
