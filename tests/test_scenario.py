"""YAML -> Scenario: defaults, axes, overrides, shipped files."""

import pytest

from layers.spec import DenseSpec, ExternalSpec, MemorySpec
from membench.errors import UsageError
from membench.scenario.arms import ENTRY_POINT_GROUP
from membench.scenario.scenario import list_scenarios, load_scenario, parse_scenario

SMALL = """
schema_version: 1
name: small
model_dim: 64
dtype: float32
arms:
  dense: {layer: dense, ffn_hidden: 256}
  memory: {layer: memory, num_keys: 4K, key_dim: 32, top_k: 8, dtype: bfloat16}
workload: {tokens: 8}
"""


def points(text, *overrides):
    return [point.values for point in parse_scenario(text, "small.yaml", overrides).points]


def test_defaults_and_types():
    scenario = parse_scenario(SMALL, "small.yaml")
    assert (scenario.level, scenario.device, scenario.fit.policy, scenario.fit.ranks) == (
        "layer",
        "auto",
        "rank",
        "auto",
    )
    assert scenario.measure.min_samples == 30
    assert scenario.text == SMALL
    assert scenario.source == "small.yaml"
    (point,) = scenario.points
    assert point.values == {}
    assert point.workload.modes == ["forward"]
    assert point.arms["dense"].kind is DenseSpec
    assert point.arms["dense"].given == {"model_dim": 64, "dtype": "float32", "ffn_hidden": 256}
    assert point.arms["memory"].kind is MemorySpec
    assert point.arms["memory"].given["num_keys"] == 4096
    assert point.arms["memory"].given["dtype"] == "bfloat16", "an arm overrides the scenario"


def test_every_shipped_scenario_loads_and_asks_a_question():
    shipped = dict(list_scenarios())
    assert set(shipped) >= {
        "iso_flop_8b", "iso_param_1b", "key_scaling", "decode", "routing_skew", "quickstart", "gate",
    }  # fmt: skip
    for name, question in shipped.items():
        assert "?" in question, name
        scenario = load_scenario(name)
        assert scenario.name == name
        assert scenario.description


def test_a_path_is_found_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL)
    assert load_scenario(str(path)).name == "small"
    with pytest.raises(UsageError, match=r"did you mean 'quickstart'\?"):
        load_scenario("quikstart")


def test_axes_multiply_in_order():
    axes = "\naxes: {workload.tokens: [1, 2], arms.memory.top_k: {range: [4, 8, 2]}}"
    assert points(SMALL + axes) == [{"workload.tokens": t, "arms.memory.top_k": k} for t in (1, 2) for k in (4, 6, 8)]


def test_powers_of_two_and_ranges_include_both_ends():
    assert [p["workload.tokens"] for p in points(SMALL + "\naxes: {workload.tokens: {pow2: [1, 512]}}")] == [
        2**i for i in range(10)
    ]
    ranged = points(SMALL + "\naxes: {workload.routing.zipf_exponent: {range: [0.8, 1.2, 0.1]}}")
    assert [p["workload.routing.zipf_exponent"] for p in ranged] == [0.8, 0.9, 1.0, 1.1, 1.2]


def test_zipped_keys_step_together_and_times_the_rest():
    axes = "\naxes: {workload.tokens: [1, 2], zip: [{arms.memory.num_keys: [4K, 16K], arms.memory.top_k: [4, 8]}]}"
    steps = [tuple(values.values()) for values in points(SMALL + axes)]
    assert steps == [(1, "4K", 4), (1, "16K", 8), (2, "4K", 4), (2, "16K", 8)]


def test_a_swept_value_reaches_the_arm():
    scenario = parse_scenario(SMALL + "\naxes: {arms.memory.num_keys: [1K, 128^2]}", "small.yaml")
    assert [point.arms["memory"].given["num_keys"] for point in scenario.points] == [1024, 16384]


def test_an_axis_may_give_what_the_arm_lacks():
    text = SMALL.replace("num_keys: 4K, ", "") + "\naxes: {arms.memory.num_keys: [1K]}"
    assert parse_scenario(text, "small.yaml").points[0].arms["memory"].given["num_keys"] == 1024


def test_exclusions_need_every_pair():
    text = SMALL + "\naxes: {arms.memory.num_keys: [64^2, 1K], exclude: [{arms.memory.num_keys: 4K, arm: memory}]}"
    first, second = (scenario := parse_scenario(text, "small.yaml")).points
    left_out = [(scenario.excludes(p, arm=a, mode="forward", optimizer=None)) for p in (first, second) for a in p.arms]
    assert left_out == [False, True, False, False], "4K and 64^2 are the same number of keys"


def test_overrides_win_over_the_file_and_its_axes():
    text = SMALL + "\naxes: {workload.tokens: [1, 2], workload.seed: [3]}"
    assert points(text, "workload.tokens=64") == [{"workload.seed": 3}]
    scenario = parse_scenario(text, "small.yaml", ["workload.tokens=64"])
    assert scenario.points[0].workload.tokens == 64
    assert scenario.overrides == ("workload.tokens=64",)
    assert points(text, "axes.workload.tokens=[5]") == [{"workload.tokens": 5, "workload.seed": 3}]
    assert points(text, "axes={}") == [{}]
    zipped = (
        SMALL + "\naxes: {zip: [{workload.tokens: [1, 2], workload.seed: [3, 4]}], exclude: [{workload.tokens: 1}]}"
    )
    assert points(zipped, "workload.tokens=9") == [{"workload.seed": 3}, {"workload.seed": 4}]


def test_an_override_may_add_a_section_or_a_collection():
    scenario = parse_scenario(SMALL, "small.yaml", ["fit.ranks=4", "arms.memory.budgets={flops_per_token: dense}"])
    assert scenario.fit.ranks == 4
    assert scenario.points[0].arms["memory"].budgets.flops_per_token == "dense"


def test_too_many_cases_are_counted_and_not_made():
    with pytest.raises(UsageError, match="2000000000 cases, above 200"):
        parse_scenario(SMALL + "\naxes: {workload.tokens: {range: [1, 1000000000, 1]}}", "small.yaml")
    many = "\nlimits: {max_cases: 12}\naxes: {workload.tokens: [1, 2, 3]}"
    assert len(points(SMALL + many, "workload.modes=[forward, decode]")) == 3
    with pytest.raises(UsageError, match="18 cases, above 12"):
        points(SMALL + many, "workload.modes=[forward, train_step]")  # two optimizers


def test_a_layer_from_outside_by_path_and_by_entry_point(monkeypatch):
    text = SMALL + "\n".join(["", "axes: {}"])
    by_path = parse_scenario(text, "s.yaml", ["arms.mine={layer: 'pkg.mod:make', options: {width: 3}}"])
    arm = by_path.points[0].arms["mine"]
    assert arm.kind is ExternalSpec
    assert arm.given["factory"] == "pkg.mod:make"
    assert arm.given["options"] == {"width": 3}

    from importlib.metadata import EntryPoint

    found = [EntryPoint("fancy", "pkg.other:build", ENTRY_POINT_GROUP)]
    monkeypatch.setattr("membench.scenario.arms.entry_points", lambda group: found)
    by_name = parse_scenario(text, "s.yaml", ["arms.mine={layer: fancy}"])
    assert by_name.points[0].arms["mine"].given["factory"] == "pkg.other:build"
    with pytest.raises(UsageError, match=r"unknown layer 'fency'; did you mean 'fancy'\?"):
        parse_scenario(text, "s.yaml", ["arms.mine={layer: fency}"])
