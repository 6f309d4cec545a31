"""Plans: counts against the costs, the roofline by hand, what is skipped, strict JSON, no torch."""

import json
import subprocess
import sys

import pytest
from timing import once_in, processes_take_less_than

from layers.spec import DenseSpec, MemorySpec, Step
from membench.machine.datasheet import parse_hardware
from membench.planning.plan import Plan
from membench.planning.planner import make_plan
from membench.planning.roofline import predicted_ms
from membench.scenario.scenario import list_scenarios, load_scenario, parse_scenario

TEXT = """
schema_version: 1
name: small
model_dim: 256
dtype: bfloat16
arms:
  dense: {layer: dense, ffn_hidden: 4096}
  memory: {layer: memory, num_keys: 64K, key_dim: 64, budgets: {flops_per_token: dense}}
  mine: {layer: 'somewhere:make'}
workload: {tokens: 16, modes: [forward, train_step], optimizers: [adamw, row_adagrad]}
"""
# Arms that no device holds whole: a plan for many devices predicts them.
ON_MANY_DEVICES = {"scale_out": {"dense"}}


def plan(*overrides, text=TEXT, hardware=None, **more):
    scenario = parse_scenario(text, "small.yaml", overrides)
    return make_plan(scenario, hardware=hardware and parse_hardware(hardware), **more)


def test_every_arm_in_every_mode_with_every_optimizer():
    made = plan()
    assert [(p.case.arm, p.case.mode, p.case.optimizer) for p in made.cases] == [
        (arm, mode, optimizer)
        for arm in ("dense", "memory", "mine")
        for mode, optimizer in [("forward", None), ("train_step", "adamw"), ("train_step", "row_adagrad")]
    ]
    assert len({planned.case.id for planned in made.cases}) == 9
    assert all(planned.case.tokens == 16 for planned in made.cases)


def test_counts_are_those_of_the_cost():
    made = plan(cache_bytes=1_000_000)
    for planned in made.cases[:6]:
        case = planned.case
        cost = case.layer.cost(Step(16, mode=case.mode, optimizer=case.optimizer, cache_bytes=1_000_000))
        for name in ("params", "active_params", "rank_params", "stored_bytes", "flops", "flops_executed", "bytes_min",
                     "bytes_issued", "bytes_dram_expected", "lookups", "unique_rows", "is_expectation"):  # fmt: skip
            assert getattr(planned, name) == getattr(cost, name), name
        assert sum(planned.memory_bytes.values()) == cost.memory.total
    dense, memory = made.cases[0], made.cases[3]
    assert dense.flops == 6 * 16 * 256 * 4096
    assert dense.params == 3 * 256 * 4096
    assert memory.lookups == 16 * 4 * 32
    assert memory.companion
    assert memory.asked["flops_per_token"] == dense.achieved["flops_per_token"] == 6 * 256 * 4096


def test_a_layer_from_outside_is_not_counted_and_not_split():
    outside = plan().cases[6]
    assert outside.skipped is None
    assert outside.notes == ["counted when built"]
    assert outside.params is outside.flops is outside.memory_bytes is outside.predicted_ms is None
    assert "not split over ranks" in plan("fit.ranks=2").cases[6].skipped
    assert "nothing" not in str(plan("arms.mine.options={a: [1, {b: 2}]}").cases[6].case.layer)


def test_the_roofline_is_the_longer_of_both_by_stage():
    entry = parse_hardware("h100").entry
    cost = DenseSpec(model_dim=4096, ffn_hidden=14336).cost(Step(32))
    up = 2 * (32 * (4096 + 14336) + 2 * 4096 * 14336)  # bytes: x, product, two matrices; memory-bound
    down = 2 * (32 * (4096 + 14336) + 4096 * 14336)
    assert predicted_ms(cost, "bfloat16", entry) == pytest.approx((up + down) / 3.35e12 * 1e3)
    large = DenseSpec(model_dim=4096, ffn_hidden=14336).cost(Step(65536))
    assert predicted_ms(large, "bfloat16", entry) == pytest.approx(6 * 65536 * 4096 * 14336 / 989.4e12 * 1e3)
    assert predicted_ms(large, "float32", entry) > 10 * predicted_ms(large, "bfloat16", entry)
    assert predicted_ms(cost, "bfloat16", None) is None


def test_unknown_hardware_predicts_nothing_and_communication_needs_a_link():
    made = plan()
    assert made.hardware is made.link_gb_s is None
    assert {planned.predicted_ms for planned in made.cases} == {None}
    assert made.cases[0].communication_ms == 0.0, "one rank sends nothing: known"
    split = plan("fit.ranks=4").cases
    assert split[0].communication_ms == 0.0, "a dense forward pass sends nothing either"
    assert split[3].communication_ms is None
    linked = plan("fit.ranks=4", "fit.link_gb_s=10").cases[3]
    gathered = 3 * 16 * 128 * 8  # to each of three others: an index and a weight a lookup
    exchanged = 16 * 256 * 2 * 3 / 4
    sizes = 3 * 8
    assert sum(linked.communication_bytes.values()) == sizes + gathered + exchanged
    assert linked.communication_ms == pytest.approx((sizes + gathered + exchanged) / 10e9 * 1e3)
    assert plan("fit.ranks=4", "fit.link_gb_s=10").network == "10 GB/s a rank"


def test_links_of_named_hardware():
    assert plan(hardware="h100").link_gb_s == 450
    assert plan("fit.link_gb_s=25", hardware="h100").link_gb_s == 25
    assert plan("fit.link_gb_s=25", hardware="h100x8").link_gb_s == 450, "the named group has its own"


def test_what_does_not_touch_an_arm_does_not_repeat_it():
    routings = "[{kind: uniform}, {kind: zipf, zipf_exponent: 1.2}, {kind: routed}]"
    axes = f"\naxes: {{workload.routing: {routings}, workload.tokens: [4, 8]}}"
    made = plan("workload.modes=[forward]", text=TEXT + axes)
    dense = [planned for planned in made.cases if planned.case.arm == "dense"]
    memory = [planned for planned in made.cases if planned.case.arm == "memory"]
    assert [planned.case.tokens for planned in dense] == [4, 8]
    assert [planned.point for planned in dense] == [{"workload.tokens": 4}, {"workload.tokens": 8}]
    assert len(memory) == 6
    by_kind = {p.case.routing.kind: p for p in memory if p.case.tokens == 8}
    assert by_kind["zipf"].unique_rows < by_kind["uniform"].unique_rows
    assert by_kind["routed"].unique_rows == by_kind["uniform"].unique_rows


def test_settings_without_effect_do_not_change_the_case():
    ids = [
        plan(f"workload.routing={routing}").cases[3].case.id
        for routing in ("{kind: uniform}", "{kind: uniform, zipf_exponent: 2}", "{kind: zipf, zipf_exponent: 2}")
    ]
    assert ids[0] == ids[1] != ids[2]


def test_the_same_layer_under_two_names_is_measured_once():
    made = plan("arms.again={layer: dense, ffn_hidden: 4096}")
    again = [planned for planned in made.cases if planned.case.arm == "again"]
    assert {planned.skipped for planned in again} == {"the same layer as arm dense here"}
    assert len(made.runnable) == len(made.cases) - 3


def test_exclusions_leave_cases_out():
    made = plan(text=TEXT + "\naxes: {exclude: [{arm: dense, optimizer: row_adagrad}, {mode: forward, arm: mine}]}")
    assert len(made.cases) == 7


def test_a_plan_survives_strict_json():
    made = plan("fit.ranks=4")
    text = json.dumps(made.model_dump(mode="json"), allow_nan=False)
    again = Plan.model_validate(json.loads(text))
    assert again == made
    assert [planned.case.id for planned in again.cases] == [planned.case.id for planned in made.cases]


@pytest.mark.parametrize("name", [name for name, _ in list_scenarios()])
def test_shipped_scenarios_meet_their_budgets(name):
    made = make_plan(load_scenario(name), hardware=parse_hardware("h200"))
    assert made.cases
    assert {planned.case.arm for planned in made.cases if planned.skipped} == ON_MANY_DEVICES.get(name, set())
    for planned in made.cases:
        for budget, asked in planned.asked.items():
            assert planned.achieved[budget] == pytest.approx(asked, rel=0.01), (planned.case.arm, budget)
        for key, value in planned.case.layer.model_dump().items():
            if key.endswith("_hidden"):
                assert value % 64 == 0


def test_the_8b_scenario_is_the_papers_layer_and_fits_on_a_laptop():
    made: Plan = make_plan(load_scenario("iso_flop_8b"), available_bytes=int(24e9))
    arms = {planned.case.arm: planned for planned in made.cases if planned.case.mode == "forward"}
    assert len(arms) == 9
    assert made.ranks == 32
    assert not any(planned.skipped for planned in made.cases)
    memory = arms["memory"]
    assert memory.case.layer == MemorySpec(model_dim=4096, num_keys=4096**2, key_dim=512)
    assert memory.params == 4096**2 * 4096 + 2 * 4096 * 4 * 512 == 68_736_253_952
    assert arms["dense"].flops == 6 * 32 * 4096 * 14336
    equal = [arm for arm in arms if arm.endswith("companion") or arm.startswith("moe")]
    assert len(equal) == 5
    for arm in equal:
        assert arms[arm].achieved["flops_per_token"] == pytest.approx(6 * 4096 * 14336, rel=0.01)
        assert arms[arm].achieved["params"] == pytest.approx(arms["memory_companion"].params, rel=0.01)
    most = max(sum(planned.memory_bytes.values()) for planned in made.cases)
    assert most < 10e9


def test_planning_is_quick_and_imports_no_torch():
    code = (
        "import sys\nfrom membench.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'numpy', 'pandas', 'scipy') if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "plan", "iso_flop_8b", "--json"]

    def check():
        with processes_take_less_than(1):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "[]"
        (made,) = json.loads(done.stdout)["plans"]
        assert made["scenario"] == "iso_flop_8b"

    once_in(8, check)
