"""``membench plan --kernels``: every stage beside its floor, in tables and JSON; what is not predicted is one line."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")

from membench.machine.datasheet import parse_hardware
from membench.planning.plan import Plan
from membench.planning.planner import make_plan
from membench.profiler.launches.prediction import with_kernels
from membench.scenario.scenario import load_scenario, parse_scenario
from membench.tables.kernels import kernels_tables, next_kernels

TEXT = """
schema_version: 1
name: small
model_dim: 256
dtype: bfloat16
arms:
  dense: {layer: dense, ffn_hidden: 1024}
  memory: {layer: memory, num_keys: 64K, key_dim: 64}
  memory_plus: {layer: memory_plus, num_keys: 64K, key_dim: 64}
  peer: {layer: peer, num_keys: 64K, key_dim: 64}
  moe: {layer: moe, num_experts: 16, expert_hidden: 128, top_k: 2}
workload: {tokens: 512, modes: [forward, forward_backward, train_step], optimizers: [row_adagrad]}
fit: {policy: skip}
"""


def predicted(*overrides, hardware="h100"):
    named = parse_hardware(hardware)
    return with_kernels(make_plan(parse_scenario(TEXT, "small.yaml", overrides), hardware=named), named)


@pytest.fixture(scope="module")
def plan():
    return predicted()


def test_every_case_has_its_stages_and_their_floors(plan):
    assert len(plan.cases) == 15
    for planned in plan.cases:
        step = planned.kernels
        assert step.launches == sum(kernel.launches for stage in step.stages for kernel in stage.kernels)
        assert step.step_ms == max(step.device_ms, step.host_ms) > 0
        assert sum(stage.floor_ms or 0 for stage in step.stages) == pytest.approx(planned.predicted_ms)
        assert step.device_ms > planned.predicted_ms, "no step is faster than its floor"
        counted = {stage.name for stage in step.stages if stage.floor_ms is not None}
        assert counted <= {stage.name for stage in step.stages if stage.launches}, "a stage that launches nothing"


@pytest.mark.parametrize("hardware", ["h100-pcie", "h200"])
def test_no_step_of_many_tokens_is_faster_than_its_floor(hardware):
    for planned in predicted("workload.tokens=16384", "arms.memory.num_keys=1M", hardware=hardware).cases:
        assert planned.kernels.device_ms > planned.predicted_ms, planned.case.name


def test_the_stages_are_those_of_a_profile(plan):
    (step,) = [each.kernels for each in plan.cases if (each.case.arm, each.case.mode) == ("memory", "train_step")]
    found = [(stage.name, stage.backward) for stage in step.stages if stage.name != "rest"]
    forward = ["query", "scores", "top_k", "bag"]
    assert found[:4] == [(name, False) for name in forward]
    assert sorted(found[4:-1]) == sorted((name, True) for name in forward)
    assert found[-1] == ("update", False)


def test_more_tokens_take_longer_on_the_device_and_no_longer_on_the_host(plan):
    more = predicted("workload.tokens=4096")
    for few, many in zip(plan.cases, more.cases, strict=True):
        assert many.kernels.device_ms > few.kernels.device_ms
        assert many.kernels.host_ms == few.kernels.host_ms


MOST_MS = {  # on an H100, of 16,384 tokens; what a later change must not make slower on paper
    "memory": {"forward": 2.4, "forward_backward": 5.5, "train_step": 5.7},
    "memory_16m": {"forward": 4.0, "forward_backward": 10.0, "train_step": 10.5},
}
MOST_OVER_MEMORY = 1.25


def test_memory_layers_are_as_fast_as_was_asked():
    named = parse_hardware("h100")
    arms = ["memory", "memory_plus", "memory_16m", "memory_plus_16m"]
    plan = make_plan(load_scenario("gpu_kernels", []), hardware=named)
    plan = plan.model_copy(update={"cases": [each for each in plan.cases if each.case.arm in arms]})
    found = {(each.case.arm, each.case.mode): each.kernels.device_ms for each in with_kernels(plan, named).cases}
    assert {arm for arm, _ in found} == set(arms)
    for arm, modes in MOST_MS.items():
        for mode, most_ms in modes.items():
            assert found[arm, mode] <= most_ms, (arm, mode)
            of_plus_ms = found[arm.replace("memory", "memory_plus"), mode]
            assert of_plus_ms <= MOST_OVER_MEMORY * found[arm, mode], (arm, mode)


def test_popular_rows_are_fewer():
    arms = "{memory: {layer: memory, num_keys: 64K, key_dim: 64}}"
    zipf = "workload.routing={kind: zipf, zipf_exponent: 1.5}"
    few, all_alike = (
        predicted(f"arms={arms}", "workload.modes=[forward_backward]", *more).cases[0].kernels
        for more in ([zipf], ["workload.routing={kind: uniform}"])
    )
    assert few.launches == all_alike.launches
    assert sum(s.moved_bytes for s in few.stages) < sum(s.moved_bytes for s in all_alike.stages)


def test_what_does_not_run_is_not_predicted():
    made = predicted("fit.memory=1.25GB")
    assert {planned.kernels is None for planned in made.cases} == {bool(planned.skipped) for planned in made.cases}


def test_tables_end_in_totals_and_the_next_stage_is_named(plan):
    tables, lines = kernels_tables(plan), next_kernels(plan)
    assert len(tables) == len(lines) == len(plan.cases)
    for planned, table, line in zip(plan.cases, tables, lines, strict=True):
        assert table.title.startswith(f"{planned.case.arm} {planned.case.mode}") and table.title.endswith("on h100")
        assert table.rows[-1][0] == "all" and table.rows[-1][4] == planned.kernels.device_ms
        assert "No GPU has confirmed" in table.caption
        most = max(planned.kernels.stages, key=lambda stage: stage.predicted_ms - (stage.floor_ms or 0))
        assert f": {most.name}" in line and most.kernels[0].name in line


def test_json_has_it_and_reads_back(plan):
    text = json.dumps(plan.model_dump(mode="json"), allow_nan=False)
    assert Plan.model_validate(json.loads(text)) == plan
    stage = json.loads(text)["cases"][3]["kernels"]["stages"][0]
    assert {"name", "backward", "launches", "moved_bytes", "flops", "predicted_ms", "floor_ms", "times_floor"} <= {
        *stage
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--kernels: predicts what a Hopper GPU's kernels take: add --hardware h100, h100-pcie, h200"),
        (["--hardware", "a100"], "add --hardware h100, h100-pcie, h200, not a100-80gb"),
        (["--hardware", "h100x8"], "predicts a whole layer on one GPU, not h100x8: write --hardware h100"),
        (["--hardware", "h100", "--nodes", "2"], "not 2 hosts of h100"),
    ],
)
def test_hardware_that_is_not_predicted_is_refused_before_torch_is_loaded(words, said):
    code = "import sys\nfrom membench.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules\n"
    command = [sys.executable, "-c", code, "plan", "quickstart", "--kernels", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("scenario", "changes", "said"),
    [
        ("gate", ["fit.ranks=2"], "not a share of P = 2 ranks"),
        ("op_bag", [], "level: predicts level layer, this is op"),
        ("gpu_kernels", ["arms.mine={layer: 'somewhere:make'}"], "arms.mine: predicts no layer from outside"),
        ("gpu_kernels", ["arms.memory.table_on=host"], "arms.memory: predicts tables on the GPU"),
        ("gpu_kernels", ["workload.optimizers=[adamw]"], "workload.optimizers: predicts no adamw on tables"),
    ],
)
def test_what_is_not_predicted_is_one_line(scenario, changes, said, call):
    code, out, err = call("plan", scenario, "--hardware", "h100", "--kernels", *(f"--set={each}" for each in changes))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("membench: --kernels: ") and said in err


def test_the_command_shows_tables_then_what_is_next(call):
    words = ("--hardware", "h200", "--kernels", "--set", "workload.modes=[forward]")
    code, out, err = call("plan", "quickstart", *words)
    assert (code, err) == (0, "")
    assert out.index("Cases, one rank") < out.index("predicted on h200") < out.index("\nNext, ")
