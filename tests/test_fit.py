"""Fit: the least P, one scale for all, or a reason."""

from types import SimpleNamespace

import pytest

from layers.spec import PRESETS, DenseSpec, MoESpec, Step
from membench.errors import UsageError
from membench.machine.datasheet import parse_hardware
from membench.planning.check_size import CHECK_WORKSPACE_BYTES, check_bytes, sampled_inputs
from membench.planning.fit import PROCESS_BYTES, Work, need_bytes
from membench.planning.planner import make_plan
from membench.scenario.scenario import parse_scenario

# 1024² rows of 1024 float32 are 4.3 GB; the mixture's 128 experts of 12.6 MB each 1.6 GB.
TEXT = """
schema_version: 1
name: fit
model_dim: 1024
dtype: float32
arms:
  dense: {layer: dense, ffn_hidden: 4096}
  memory: {layer: memory, num_keys: 1M, key_dim: 128}
  moe: {layer: moe, num_experts: 128, expert_hidden: 1024, top_k: 2, budgets: {}}
workload: {tokens: 16, modes: [forward, forward_backward]}
"""
TABLE_BYTES = 1024**2 * 1024 * 4
OWN_BYTES = PROCESS_BYTES + CHECK_WORKSPACE_BYTES


def plan(*overrides, gigabytes=None, hardware=None, text=TEXT):
    scenario = parse_scenario(text, "fit.yaml", overrides)
    available = None if gigabytes is None else int(gigabytes * 1e9)
    return make_plan(scenario, hardware=hardware and parse_hardware(hardware), available_bytes=available)


def test_everything_fits_unsplit_where_there_is_room():
    made = plan(gigabytes=40)
    assert (made.ranks, made.scale) == (1, 1.0)
    assert made.ranks_reason == "least power of two that fits everything"
    assert len(made.runnable) == len(made.cases) == 6


@pytest.mark.parametrize(("gigabytes", "ranks"), [(8.0, 1), (5.5, 2), (3.8, 4), (2.7, 8)])
def test_the_least_power_of_two_for_all_arms_and_modes(gigabytes, ranks):
    made = plan(gigabytes=gigabytes)
    assert made.ranks == ranks
    assert {planned.case.ranks for planned in made.cases} == {ranks}
    need = max(sum(p.memory_bytes.values()) + check_bytes(p.case.layer) for p in made.cases) + PROCESS_BYTES
    assert need <= gigabytes * 1e9
    if ranks > 1:
        half = plan(f"fit.ranks={ranks // 2}", gigabytes=gigabytes)
        assert any(planned.skipped and "needs" in planned.skipped for planned in half.cases)


def test_a_rank_holds_its_columns_and_computes_the_group():
    whole, quarter = (
        next(p for p in plan(f"fit.ranks={r}", gigabytes=40).cases if p.case.arm == "memory") for r in (1, 4)
    )
    assert whole.memory_bytes["weights"] - quarter.memory_bytes["weights"] == pytest.approx(TABLE_BYTES * 3 / 4)
    assert quarter.lookups == 4 * whole.lookups
    assert quarter.params == whole.params
    assert quarter.achieved == whole.achieved, "budgets are of the whole layer"


def test_a_pinned_split_that_an_arm_cannot_do_is_a_reason():
    made = plan("fit.ranks=256", gigabytes=40)
    assert made.ranks_reason == "pinned by the scenario"
    reasons = {planned.case.arm: planned.skipped for planned in made.cases}
    assert reasons == {"dense": None, "memory": None, "moe": "P = 256: 128 experts cannot be shared by 256 ranks"}
    refused = next(planned for planned in made.cases if planned.case.arm == "moe")
    assert refused.flops is None
    assert refused.params is None


def test_skip_leaves_out_only_what_does_not_fit():
    made = plan("fit.policy=skip", gigabytes=5.5)
    assert made.ranks == 1
    skipped = {(p.case.arm, p.case.mode): p.skipped for p in made.cases if p.skipped}
    assert set(skipped) == {("memory", "forward"), ("memory", "forward_backward")}
    assert skipped["memory", "forward"] == "needs 6.0 GB at P = 1, has 5.5 GB"


def test_shrink_scales_rows_and_experts_alike_and_remembers_what_was_asked():
    made = plan("fit.policy=shrink", gigabytes=6)
    assert (made.ranks, made.scale) == (1, 0.5)
    assert not any(planned.skipped for planned in made.cases)
    whole = {(planned.case.arm, planned.case.mode): planned for planned in plan(gigabytes=40).cases}
    for planned in made.cases:
        before = whole[planned.case.arm, planned.case.mode]
        if planned.case.arm == "dense":
            assert planned.case.id == before.case.id, "a dense layer has no parameters to spare"
        else:
            assert planned.asked["params"] == before.achieved["params"]
            assert planned.achieved["params"] == pytest.approx(before.achieved["params"] / 2, rel=0.01)


def test_shrink_keeps_equal_arms_equal():
    made = plan(
        "fit.policy=shrink",
        "arms.moe={layer: moe, expert_hidden: 128, top_k: 2, budgets: {params: memory}}",
        gigabytes=8,
    )
    sizes = {planned.case.arm: planned.achieved["params"] for planned in made.cases}
    assert made.scale == 0.5
    assert sizes["moe"] == pytest.approx(sizes["memory"], rel=0.01)


def test_memory_is_capped_by_the_scenario_unless_hardware_is_named():
    assert plan("fit.memory=5GB", gigabytes=40).ranks == 2
    assert plan("fit.memory=40GB", gigabytes=5).ranks == 2, "a limit does not make memory"
    assert plan("fit.memory=5GB", hardware="h100").ranks == 1


def test_several_named_devices_are_the_ranks():
    made = plan("fit.ranks=2", hardware="h100x8")
    assert (made.ranks, made.hardware) == (8, "h100x8")
    assert made.ranks_reason == "as many as the named devices"
    assert plan("fit.ranks=2", hardware="h100").ranks == 2


def test_what_nothing_makes_fit_is_an_error():
    with pytest.raises(UsageError, match=r"fit.memory: 1.5 GB are available, and a process takes 1.7 GB"):
        plan(gigabytes=1.5)
    outside = "arms.mine={layer: 'pkg:make'}"
    assert plan(outside, gigabytes=40).ranks == 1
    with pytest.raises(UsageError, match=r"fit.ranks: no number of ranks makes everything fit"):
        plan(outside, gigabytes=5.5)


def test_need_counts_the_layer_and_the_process():
    scenario = parse_scenario(TEXT, "fit.yaml")
    spec = scenario.points[0].arms["memory"].kind(**scenario.points[0].arms["memory"].given)
    cost = spec.cost(Step(16))
    checked = 8 * spec.layer_params * 5 / 3
    arm = SimpleNamespace(spec=spec)
    work = Work(scenario.points[0], arm, "forward")
    assert need_bytes(work, 1) == pytest.approx(cost.memory.total + OWN_BYTES + checked)
    assert cost.memory.weights == (1024**2 * 1024 + 1024 * 4 * 128 + 4 * 1024 * 128) * 4


def test_the_check_takes_fewer_tokens_of_large_experts():
    small = MoESpec(model_dim=512, num_experts=64, expert_hidden=192)
    huge = MoESpec(model_dim=4096, num_experts=64, expert_hidden=14336, top_k=1)
    assert sampled_inputs(small) == 4
    assert sampled_inputs(huge) == 3
    assert check_bytes(huge) > 3 * huge.expert_params * 8
    dense = DenseSpec(model_dim=4096, ffn_hidden=14336)
    assert check_bytes(dense) == pytest.approx(CHECK_WORKSPACE_BYTES + 8 * 3 * 4096 * 14336 * 5 / 3)


def test_the_check_of_a_model_takes_memory_with_the_square_of_its_tokens() -> None:
    shape = PRESETS["tiny"]
    model = shape.around(DenseSpec(model_dim=64, ffn_hidden=192), "all", "own")
    block = model.plain_block
    one, two = (check_bytes(model, tokens) - check_bytes(model, 0) for tokens in (1000, 2000))
    assert two > 2 * one > 2 * 8 * 1000 * 4 * shape.vocab_size
    assert check_bytes(model, 1000, sequences=4) == check_bytes(model, 1000), "one sequence of a model is checked"
    assert check_bytes(block, 1000, sequences=4) > check_bytes(block, 1000)
    assert model.ends.checked_activations(1, 1000) < model.checked_activations(1, 1000)
    scores = 8 * 3 * shape.heads * 4000**2
    assert check_bytes(model, 4000) > scores
