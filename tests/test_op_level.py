"""Scenarios of level ``op``: what is refused, what is skipped, what is compared with what."""

import json

import numpy as np
import pytest
from test_results_table import a_record
from typer.testing import CliRunner

from layers.spec import OPERATORS, spec_from
from membench.case import Case
from membench.cli import app
from membench.errors import UsageError
from membench.planning.planner import make_plan
from membench.report.palette import arm_styles
from membench.results.ranking import comparable_groups, yardstick
from membench.results.records import read_result
from membench.scenario.scenario import parse_scenario
from membench.scenario.shipped import list_scenarios
from membench.tables.plan import plan_tables
from membench.tables.render import to_markdown
from membench.tables.results import result_tables

BAG = """schema_version: 1
name: bag
level: op
model_dim: 64
dtype: float32
every_arm: {op: weighted_bag, heads: 2, top_k: 4}
arms: {ours: {}, plain: {path: plain}}
workload:
  tokens: 16
  modes: [forward, forward_backward, train_step]
  optimizers: [sgd, row_adagrad]
  routing: {kind: uniform}
axes: {every_arm.num_keys: [1K, 4K]}
fit: {policy: skip}
measure: {min_samples: 5, floor_samples: 2, max_seconds: 0.2, warmup_seconds: 0.02, retake_seconds: 0}
"""
LAYERS = """schema_version: 1
name: layers
model_dim: 64
dtype: float32
every_arm: {layer: memory, num_keys: 4K, key_dim: 32, top_k: 8}
arms: {memory: {}, wide: {value_dim: 128}, dense: {layer: dense, ffn_hidden: 128}}
"""


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("level=layer", "every_arm.op", "is for scenarios of level op; at level layer an arm says layer:"),
        ("arms.ours.layer=memory", "arms.ours.layer", "is for scenarios of level layer; at level op an arm says op:"),
        ("arms.ours.op=memory", "arms.ours.op", "memory is a layer: compare it at level layer"),
        ("arms.ours.op=weighted_bags", "arms.ours.op", "did you mean 'weighted_bag'?"),
        ("every_arm.op=nothing", "every_arm.op", "unknown operator 'nothing'; known are expert_rows"),
        ("arms.ours.op=3", "arms.ours.op", "should be the name of an operator, not 3"),
        ("arms.ours.op=a.b:f", "arms.ours.op", "unknown operator"),
        ("every_arm={heads: 2}", "arms.ours.op", "is missing; known are"),
        ("every_arm.headz=2", "every_arm.headz", "no arm has this key; did you mean 'heads'?"),
        ("every_arm.kind=weighted_bag", "every_arm.kind", "no arm has this key"),
        ("every_arm.num_keys=3", "every_arm.num_keys", "the nearest are 1² = 1 and 2² = 4"),
        ("every_arm=3", "every_arm", "mapping"),
        ("arms.ours.path=gpu", "arms.ours.path", "should be 'auto', 'torch', 'native', 'triton' or 'plain'"),
        ("arms.ours={op: key_scores, key_dim: 8, path: native}", "arms.ours", "it has auto, plain"),
        ("arms.ours.top_k=2000", "arms.ours", "top_k 2000 is above num_keys 1024"),
        ("arms.ours={op: product_key_top_k, top_k: 64}", "arms.ours", "top_k 64 is above sub_keys 32"),
        ("arms.ours={op: product_key_top_k, dtype: bfloat16}", "arms.ours.dtype", "should be 'float32'"),
        ("budgets={params: 1M}", "budgets", "nothing to solve: leave budgets out"),
        ("arms.plain.budgets={params: ours}", "arms.plain.budgets", "nothing to solve: leave budgets out"),
        ("workload.routing={kind: routed}", "workload.routing.kind", "say uniform, zipf or trace, not 'routed'"),
    ],
)
def test_bad_input_is_one_line(override, key, said):
    with pytest.raises(UsageError) as caught:
        parse_scenario(BAG, "bag.yaml", [override])
    assert str(caught.value).startswith(f"bag.yaml: {key}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layers_refuse_operators():
    with pytest.raises(UsageError, match=r"arms.memory.layer: weighted_bag is an operator: compare it at level op"):
        parse_scenario(LAYERS, "layers.yaml", ["arms.memory.layer=weighted_bag"])
    with pytest.raises(UsageError, match=r"arms.memory.op: is for scenarios of level op"):
        parse_scenario(LAYERS, "layers.yaml", ["arms.memory.op=weighted_bag"])


def test_every_arm_takes_what_it_has_a_key_for():
    (point,) = parse_scenario(LAYERS, "layers.yaml").points
    kinds = {name: arm.kind.model_fields["kind"].default for name, arm in point.arms.items()}
    assert kinds == {"memory": "memory", "wide": "memory", "dense": "dense"}
    assert point.arms["wide"].given["value_dim"] == 128
    assert point.arms["memory"].given["top_k"] == 8
    assert "num_keys" not in point.arms["dense"].given
    own = parse_scenario(LAYERS, "layers.yaml", ["arms.wide.top_k=4"]).points[0]
    assert own.arms["wide"].given["top_k"] == 4


def test_plan_of_operators():
    plan = make_plan(parse_scenario(BAG, "bag.yaml"))
    assert len(plan.cases) == 16
    skipped = [case for case in plan.cases if case.skipped]
    assert {(case.case.arm, case.case.optimizer) for case in skipped} == {("plain", "row_adagrad")}
    assert "has a dense gradient, which row_adagrad is not for; sgd and adamw are" in skipped[0].skipped
    assert {case.case.level for case in plan.cases} == {"op"}
    assert len({case.id for case in plan.cases}) == 16
    forward = next(case for case in plan.cases if case.case.mode == "forward")
    assert (forward.lookups, forward.is_expectation) == (16 * 2 * 4, True)
    assert plan.cases[0].memory_bytes["weights"] == 1024 * 64 * 4
    assert all(to_markdown(table) for table in plan_tables(plan))


def test_nothing_to_train_or_to_split():
    top_k = ["every_arm={op: product_key_top_k, heads: 2, top_k: 4}", "workload.optimizers=[sgd]"]
    plan = make_plan(parse_scenario(BAG, "bag.yaml", [*top_k, "axes={every_arm.num_keys: [1K]}"]))
    assert [case.skipped for case in plan.cases] == [None, None, "train_step: there is nothing to train"] * 2
    split = make_plan(parse_scenario(BAG, "bag.yaml", ["fit={policy: rank, ranks: 2}"]))
    assert all("an operator is not split over ranks" in case.skipped for case in split.cases)


def ids(routing, *overrides):
    overrides = [*overrides, f"workload.routing={{kind: {routing}}}", "axes={}", "every_arm.num_keys=1K"]
    return {case.id for case in make_plan(parse_scenario(BAG, "bag.yaml", overrides)).cases}


def test_routing_of_what_chooses_nothing():
    """Scores are not routed: their ids are the same under every routing. Rows are."""
    top_k = "every_arm={op: product_key_top_k, heads: 2, top_k: 4}"
    assert ids("routed", top_k) == ids("uniform", top_k)
    assert not ids("uniform") & ids("zipf")


def test_shipped_scenarios_of_operators():
    shipped = [name for name, _ in list_scenarios() if name.startswith("op_")]
    assert shipped == ["op_bag", "op_expert_rows", "op_experts", "op_top_k"]


def test_a_layers_id_is_what_it_was():
    """Ids of results that are kept: neither the level nor operators may change them."""
    layer = spec_from({"kind": "dense", "model_dim": 512, "dtype": "float32", "ffn_hidden": 4096})
    assert Case(arm="dense", mode="forward", layer=layer, tokens=128).id == "22533e06b80e62ea"


def an_operator(arm, latency_ms, kind="weighted_bag", mode="forward", **changes):
    sizes = {"weighted_bag": {"model_dim": 64, "num_keys": 1024}, "product_key_top_k": {"num_keys": 1024}}[kind]
    layer = spec_from({"kind": kind, **sizes, **changes})
    record = a_record(arm, latency_ms, point={"every_arm.num_keys": "1K"}, mode=mode)
    case = record.case.model_copy(update={"layer": layer, "level": "op", "routing": record.case.routing})
    return record.model_copy(update={"case": case})


def test_operators_are_compared_with_their_own_kind_and_with_plain():
    records = [
        an_operator("ours", 2.0),
        an_operator("plain", 5.0, path="plain"),
        an_operator("choice", 1.0, kind="product_key_top_k"),
    ]
    groups = comparable_groups(records)
    assert {title: [r.case.arm for r in members] for title, members in groups.items()} == {
        "weighted_bag forward, 8 tokens a rank, routing routed, num_keys 1K": ["ours", "plain"],
        "product_key_top_k forward, 8 tokens a rank, routing routed, num_keys 1K": ["choice"],
    }
    assert yardstick(records[:2]) == ("plain", 5.0)
    assert yardstick([a_record("dense", 3.0)]) == ("dense", 3.0)
    assert yardstick([records[0]]) == ("plain", None)


def test_every_operator_has_a_look():
    for kind in OPERATORS:
        record = a_record("x", 1.0)
        layer = record.case.layer.model_copy(update={"kind": kind})
        case = record.case.model_copy(update={"layer": layer})
        assert arm_styles([record.model_copy(update={"case": case})])["x"].colour


def run(*words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_from_scenario_to_tables(scenario_file, tmp_path):
    trace = tmp_path / "rows.npy"
    np.save(trace, np.tile(np.arange(8).reshape(1, 2, 4), (16, 1, 1)))
    routing = f"workload.routing={{kind: trace, trace: {trace}}}"
    words = ["axes={}", "every_arm.num_keys=1K", routing, "workload.optimizers=[sgd]"]
    words = [word for override in words for word in ("--set", override)]
    run("run", scenario_file(BAG), "--output", str(tmp_path / "out"), "--device", "cpu", *words, "--json")
    (path,) = (tmp_path / "out").glob("*.json")
    result = read_result(path)
    assert [(r.case.arm, r.status, r.reason) for r in result.cases] == [
        (arm, "ok", None) for arm in ("ours", "plain") for _ in range(3)
    ]
    for record in result.cases:
        (found,) = record.rounds
        assert found.reference["errors"]["output"] <= 1e-5
        assert found.implementation["path"] in (("plain",) if record.case.arm == "plain" else ("native", "torch"))
        assert found.traffic["unique_rows"] == 8
        assert found.cost["flops"] == (1 if record.case.mode == "forward" else 3) * 2 * 16 * 8 * 64
        assert found.ceilings["random_row_bytes"] == 256
        assert record.metrics["mbu"] is not None
    gradients = {
        r.case.arm: r.rounds[0].memory["gradient_bytes"] for r in result.cases if r.case.mode == "forward_backward"
    }
    assert gradients["plain"] == 1024 * 64 * 4
    assert 8 * 64 * 4 <= gradients["ours"] < 8 * 64 * 4 + 8 * 8 + 1
    tables = {table.title: table for table in result_tables(result)}
    steps = tables["weighted_bag train_step with sgd, 16 tokens a rank, routing trace (one round: no order)"]
    beside = [column.header for column in steps.columns].index("vs plain")
    assert {row[0]: row[beside] for row in steps.rows}["plain"] == 1.0
    assert [row[1] for row in tables["Arms: budgets asked and achieved"].rows] == [
        "weighted_bag",
        "weighted_bag, path plain",
    ]
    report = tmp_path / "report.html"
    run("report", str(path), "--output", str(report))
    assert "weighted_bag" in report.read_text()
    assert {row["kind"] for row in json.loads(run("list", "--json"))["operators"]} == set(OPERATORS)
