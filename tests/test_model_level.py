"""Scenarios of levels ``block`` and ``model``: what is planned, and the whole way in processes."""

import json

import pytest
from test_run import one_result, run
from typer.testing import CliRunner

from membench.cli import app
from membench.layers.spec import ModelSpec
from membench.machine.datasheet import parse_hardware
from membench.planning.planner import make_plan
from membench.results.ranking import comparable_groups
from membench.scenario.scenario import load_scenario, parse_scenario

SMALL = """schema_version: 1
name: small
level: model
model: {preset: tiny, num_blocks: 3}
dtype: float32
arms:
  dense: {layer: dense}
  memory: {layer: memory_plus, num_keys: 1K, heads: 2, top_k: 4, key_dim: 16, at: all, pool: shared}
  moe: {layer: moe, num_experts: 8, expert_hidden: 32, top_k: 2, at: middle}
  peer: {layer: peer, num_keys: 256, heads: 2, top_k: 4, key_dim: 16, at: [0, 2]}
workload:
  {sequences: 2, prompt: 12, context: 5, modes: [prefill, decode, forward_backward, train_step],
   optimizers: [row_adagrad]}
fit: {policy: skip}
measure: {min_samples: 5, floor_samples: 2, max_seconds: 0.2, warmup_seconds: 0.02, retake_seconds: 0}
"""
IN_PARTS = ["fit.policy=rank", "fit.ranks=2", "workload.modes=[prefill, decode]"]


def test_a_step_has_the_tokens_of_its_mode():
    plan = make_plan(parse_scenario(SMALL, "small.yaml"), available_bytes=2**34)
    steps = {(p.case.mode, p.case.tokens, p.case.sequences, p.case.context) for p in plan.cases}
    assert steps == {
        ("prefill", 24, 2, 5),
        ("decode", 2, 2, 5),
        ("forward_backward", 24, 2, 0),
        ("train_step", 24, 2, 0),
    }


def test_budgets_are_the_models():
    stated = [f"arms.{arm}.budgets={{}}" for arm in ("dense", "memory", "peer")]
    asks = ["budgets={params: memory, flops_per_token: dense}", *stated]
    sizes = ["arms.moe={layer: moe, top_k: 8, at: all}", "arms.memory.num_keys=256K", "model.ffn_hidden=4096"]
    plan = make_plan(parse_scenario(SMALL, "small.yaml", [*asks, *sizes]), available_bytes=2**34)
    achieved = {p.case.arm: p.achieved for p in plan.cases}
    assert achieved["moe"]["params"] == pytest.approx(achieved["memory"]["params"], rel=0.01)
    assert achieved["moe"]["flops_per_token"] == pytest.approx(achieved["dense"]["flops_per_token"], rel=0.01)
    found = next(p.case.layer for p in plan.cases if p.case.arm == "moe")
    assert isinstance(found, ModelSpec) and found.at == (0, 1, 2)
    assert found.cost(plan.cases[0].case.step()).params == achieved["moe"]["params"]


@pytest.mark.parametrize("level", ["model", "block"])
def test_every_kind_in_every_mode(scenario_file, tmp_path, level):
    text = SMALL if level == "model" else SMALL.replace("level: model", "level: block")
    if level == "block":
        for stated in (", at: all, pool: shared", ", at: middle", ", at: [0, 2]"):
            text = text.replace(stated, "")
    done = run("run", scenario_file(text), "--output", str(tmp_path / "out"), "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    result = one_result(tmp_path / "out")
    assert {r.status for r in result.cases} == {"ok"}, [(r.case.arm, r.case.mode, r.reason) for r in result.cases]
    assert len(result.cases) == 16
    for record in result.cases:
        (found,) = record.rounds
        assert max(found.reference["errors"].values()) <= 1e-5
        held = record.case.mode in ("prefill", "decode")
        assert (found.memory["kv_cache_bytes"] > 0) == held
        assert any("depth held" in note for note in found.notes) == held
        assert (record.metrics["ttft_ms"] is not None) == (level == "model" and record.case.mode == "prefill")
        assert (record.metrics["tpot_ms_p50"] is not None) == (level == "model" and record.case.mode == "decode")
        assert found.cost["params"] == record.planned["params"]
        assert found.memory["weights_bytes"] == 4 * found.cost["params"]
        for name in ("mfu", "mbu", "floor_ms", "over_floor"):
            assert record.metrics[name] is not None, (record.case.arm, record.case.mode, name)


def test_a_model_that_does_not_fit_is_the_sum_of_its_blocks(scenario_file, tmp_path):
    words = [word for override in IN_PARTS for word in ("--set", override)]
    done = run("run", scenario_file(SMALL), "--output", str(tmp_path / "out"), "--device", "cpu", "--json", *words)
    assert done.returncode == 0, done.stderr
    result = one_result(tmp_path / "out")
    told = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert len(told) == 10 and not any("] dense prefill" in line for line in told), "wholes are measured too"
    assert ": 10 measurements in 1 round\n" in done.stderr
    parts = {r.id: r for r in result.cases if r.planned["part_of"]}
    wholes = [r for r in result.cases if r.planned["parts"]]
    assert len(wholes) == 8 and {r.case.arm for r in parts.values()} == {
        "ends",
        "plain block",
        "memory block",
        "moe block",
        "peer block",
    }
    for record in wholes:
        assert record.status == "ok" and record.case.level == "model"
        counts = record.planned["parts"]
        assert sum(counts.values()) == 1 + 3
        expected = sum(count * parts[id_].metrics["latency_ms_p50"] for id_, count in counts.items())
        assert record.metrics["latency_ms_p50"] == pytest.approx(expected)
        assert any("sum of measured blocks" in note for note in record.planned["notes"])
        assert record.flags[0] == "sum of measured blocks" and record.metrics["over_floor"] is not None
    groups = comparable_groups(result.cases)
    assert all({r.case.arm for r in group} == {"dense", "memory", "moe", "peer"} for group in groups.values())


def test_equal_blocks_are_one_part():
    plan = make_plan(parse_scenario(SMALL, "s.yaml", [*IN_PARTS, "arms.dense.at=middle"]), available_bytes=2**34)
    counts = {p.case.arm: sorted(p.parts.values()) for p in plan.cases if p.parts}
    assert counts == {"dense": [1, 3], "memory": [1, 3], "moe": [1, 1, 2], "peer": [1, 1, 2]}


def test_a_shared_pool_is_not_trained_in_parts():
    plan = make_plan(parse_scenario(SMALL, "s.yaml", [*IN_PARTS[:2]]), available_bytes=2**34)
    skipped = {(p.case.arm, p.case.mode): p.skipped for p in plan.cases if p.skipped}
    assert list(skipped) == [("memory", "train_step")]
    assert "a pool that several blocks read is updated once a step" in skipped["memory", "train_step"]


def test_a_summed_case_asked_for_brings_its_parts():
    plan = make_plan(parse_scenario(SMALL, "s.yaml", IN_PARTS), available_bytes=2**34)
    whole = next(p for p in plan.cases if p.parts)
    kept = plan.only([whole.id])
    assert {p.id for p in kept.cases} == {whole.id, *whole.parts} and len(kept.runnable) == len(whole.parts)


def test_the_8b_models_are_planned_for_eight_gpus_in_a_moment():
    plan = make_plan(load_scenario("iso_model_8b"), hardware=parse_hardware("h200x8"))
    assert plan.ranks == 8 and not any(p.skipped for p in plan.cases)
    wholes = {p.case.arm: p for p in plan.cases if not p.part_of and p.case.mode == "decode"}
    assert wholes["dense"].params == pytest.approx(8.03e9, rel=1e-3)
    for arm, planned in wholes.items():
        if arm != "dense":
            assert planned.params == pytest.approx(wholes["memory"].params, rel=0.01), arm


def test_a_block_is_profiled_by_stage():
    words = "--layer memory --keys 1K --key-dim 16 --top-k 4 --block tiny --dtype fp32 --tokens 8 --context 6 --json"
    done = CliRunner().invoke(app, ["profile", *words.split(), "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    (layer,) = json.loads(done.stdout)["profile"]["layers"]
    modes = {mode["mode"]: {row["name"] for row in mode["stages"]} for mode in layer["modes"]}
    for stages in modes.values():
        assert {"qkv", "attention", "out_proj", "query", "scores", "bag"} <= stages
    assert set(modes) == {"prefill", "decode"}


def test_ends_are_measured_once_for_all_contexts() -> None:
    overrides = [*IN_PARTS, "axes={workload.context: [5, 9]}"]
    plan = make_plan(parse_scenario(SMALL, "s.yaml", overrides), available_bytes=2**34)
    parts = [p for p in plan.cases if p.part_of]
    ends = [p for p in parts if p.case.arm == "ends"]
    assert sorted((p.case.mode, p.case.context) for p in ends) == [("decode", 0), ("prefill", 0)]
    assert all(p.point == {} for p in ends)
    blocks = [p for p in parts if p.case.arm == "plain block"]
    assert sorted(p.point["workload.context"] for p in blocks) == [5, 5, 9, 9]


def test_a_model_that_fits_is_measured_in_parts_where_that_is_asked() -> None:
    asked = ["fit.in_parts=true", "workload.modes=[prefill, train_step]", "arms.memory.pool=own"]
    plan = make_plan(parse_scenario(SMALL, "s.yaml", asked), available_bytes=2**34)
    wholes = [p for p in plan.cases if not p.part_of]
    assert all(p.parts and not p.skipped for p in wholes) and len(wholes) == 8
    assert "sum of measured blocks: asked for by fit.in_parts" in wholes[0].notes
    assert not any(p.parts for p in make_plan(parse_scenario(SMALL, "s.yaml"), available_bytes=2**34).cases)
