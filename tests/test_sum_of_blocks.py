"""The benchmarks of models beside their parts: what they compare, and what they keep."""

import pytest
import torch

from benchmarks import block_over_parts, sum_of_blocks
from membench.layers.spec import PRESETS
from membench.scenario.scenario import load_scenario

TINY = """schema_version: 1
name: tiny
level: model
model: {preset: tiny}
dtype: float32
arms: {dense: {layer: dense}, moe: {layer: moe, num_experts: 4, expert_hidden: 32, top_k: 2, at: [1]}}
workload: {sequences: 2, prompt: 4, modes: [decode]}
measure: {min_samples: 3, floor_samples: 2, max_seconds: 0.1, warmup_seconds: 0.0, retake_seconds: 0}
"""


@pytest.mark.slow
def test_models_are_measured_both_ways_and_compared(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    sum_of_blocks.measure(tmp_path / "runs", str(path), [], runs=1)
    found = sum_of_blocks.judged(tmp_path / "runs", runs=1)
    of_cases = found["sum_over_whole"]
    assert [name.split(",")[0] for name in of_cases] == ["dense decode", "moe decode"]
    assert found["furthest_from_one"] == max(abs(ratio - 1) for ratio in of_cases.values())
    assert all(found["ratios_of_runs"][name] == [ratio] for name, ratio in of_cases.items())
    files = [sum_of_blocks.read_result(path) for path in (tmp_path / "runs").glob("1_*_parts.json")]
    parts = [{r.case.arm for r in each.cases if r.planned["part_of"]} for each in files]
    assert sorted(parts, key=len) == [{"ends", "plain block"}, {"ends", "plain block", "moe block"}]


def test_the_scenario_has_each_kind_in_each_mode():
    scenario = load_scenario(str(sum_of_blocks.SCENARIO), [sum_of_blocks.IN_PARTS])
    (point,) = scenario.points
    assert {arm.kind.model_fields["kind"].default for arm in point.arms.values()} >= {
        "dense",
        "memory_plus",
        "moe",
        "peer",
    }
    assert set(point.workload.modes) == {"prefill", "decode", "train_step"} and scenario.fit.in_parts


@pytest.mark.parametrize("kind", block_over_parts.LAYERS)
def test_parts_hold_all_that_a_block_trains(kind, monkeypatch):
    trained = {}
    whole = block_over_parts.train_step
    monkeypatch.setattr(
        block_over_parts, "train_step", lambda layer, inputs: trained.setdefault(layer, whole(layer, inputs))
    )
    shape = PRESETS["tiny"]
    steps = block_over_parts.block_and_parts(block_over_parts.LAYERS[kind](shape), shape, sequences=2, prompt=3)
    block, *parts = trained
    assert list(steps) == ["block", "attention", "norms", "ffn"]
    assert sum(p.numel() for part in parts for p in part.parameters()) == sum(p.numel() for p in block.parameters())
    for step in steps.values():
        step(0)
    assert all(p.grad is not None for part in parts[:2] for p in part.parameters())


def test_what_is_kept_of_a_block():
    found = block_over_parts.compare("dense", "tiny", sequences=2, prompt=3, rounds=1)
    parts = sum(found[f"{name}_ms"] for name in ("attention", "norms", "ffn"))
    assert found["block_over_parts"] == pytest.approx(found["block_ms"] / parts)
    assert torch.tensor(list(found.values())).isfinite().all()
