"""``membench plan --nodes``: every way to share each layer over hosts, the curve over them, one line for bad input."""

import json

import pytest

from layers.spec import COLLECTIVES, Collective
from membench.errors import UsageError
from membench.machine.datasheet import parse_hardware, parse_hosts
from membench.planning.nccl import nccl_network
from membench.planning.planner import make_plan
from membench.scenario.scenario import load_scenario, parse_scenario
from membench.tables.layouts import curve_table, layouts_table
from membench.tables.plan import plan_tables

TEXT = """
schema_version: 1
name: small
model_dim: 256
dtype: bfloat16
arms:
  dense: {layer: dense, ffn_hidden: 4096}
  memory: {layer: memory, num_keys: 64K, key_dim: 64}
  moe: {layer: moe, num_experts: 64, expert_hidden: 64}
  mine: {layer: 'somewhere:make'}
workload: {tokens: 64, modes: [forward, train_step], optimizers: [row_adagrad]}
"""


def hosts(text, hardware="h100x8"):
    return parse_hosts(parse_hardware(hardware), text)


def plan(count, *overrides, hardware="h100x8", text=TEXT):
    (named,) = hosts(str(count), hardware)
    return make_plan(parse_scenario(text, "small.yaml", overrides), hardware=named)


def steps(made, arm="memory", mode="train_step"):
    return {each.layout: each.step_ms for each in made.layouts if (each.arm, each.mode) == (arm, mode)}


def test_hosts_are_ranks_of_one_group():
    made = plan(4)
    assert made.ranks == 32
    assert made.hardware == "4 hosts of h100x8"
    assert made.network == "370 GB/s a device inside a host of 8, 48.5 GB/s between hosts"
    assert plan(1).network == "370 GB/s a device inside a host of 8"


def test_every_kind_has_its_ways_and_a_layer_from_outside_none():
    made = plan(2)
    assert set(steps(made)) == {
        "columns",
        "rows",
        "columns in a host, rows between",
        "rows in a host, columns between",
        "columns in a host",
    }
    assert set(steps(made, "moe")) == {"experts", "experts in a host"}
    assert set(steps(made, "dense")) == {"replicas", "fsdp", "fsdp in a host", "tensor", "tensor in a host"}
    assert steps(made, "mine") == {}
    assert all(step > 0 for step in steps(made).values())
    assert make_plan(parse_scenario(TEXT, "small.yaml", []), hardware=parse_hardware("h100")).layouts == []


@pytest.mark.parametrize("arm", ["memory", "moe", "dense"])
@pytest.mark.parametrize("mode", ["forward", "train_step"])
def test_a_rank_s_share_and_its_way_are_predicted_by_one_path(arm, mode):
    """What a run adds to a measured share is what the plan says of the first way of the same ranks."""
    made = plan(4)
    case = next(each for each in made.cases if (each.case.arm, each.case.mode) == (arm, mode))
    first = next(each for each in made.layouts if (each.arm, each.mode) == (arm, mode))
    assert first.id == case.id
    assert first.communication_ms == pytest.approx(case.communication_ms)
    assert first.predicted_ms == pytest.approx(case.predicted_ms)
    assert first.sent_bytes == pytest.approx(sum(case.communication_bytes.values()))


def test_communication_grows_with_hosts():
    few, many = plan(2), plan(8)

    def of(made):
        return next(
            each for each in made.layouts if (each.arm, each.mode, each.layout) == ("memory", "forward", "columns")
        )

    assert of(many).communication_ms > of(few).communication_ms


def test_a_scenario_s_own_network_predicts_a_measured_share(tmp_path):
    line = {"alpha_s": 1e-5, "bytes_per_s": 1e9}
    collectives = {kind: {"lines": [line]} for kind in COLLECTIVES}
    path = tmp_path / "network.json"
    path.write_text(json.dumps({"benchmark": "network", "backend": "gloo", "ranks": 4, "collectives": collectives}))
    made = make_plan(parse_scenario(TEXT, "small.yaml", ["fit.ranks=4", f"fit.network={path}"]))
    assert made.network == "gloo as measured on 4 processes of one machine"
    assert made.link_gb_s is None
    moe = next(each for each in made.cases if each.case.arm == "moe")
    sent = moe.communication_bytes
    assert list(sent) == ["all_to_all_loads", "all_to_all_tokens", "all_to_all_results"]
    assert moe.communication_ms == pytest.approx(1e3 * (3 * 3 * 1e-5 + sum(sent.values()) / 1e9))
    assert plan(2, f"fit.network={path}").network.startswith("370 GB/s"), "the named group has its own"


def test_two_networks_are_one_too_many():
    with pytest.raises(UsageError, match="fit: network and link_gb_s both say"):
        parse_scenario(TEXT, "small.yaml", ["fit.network=x.json", "fit.link_gb_s=2"])


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError, match=r"absent\.json"):
        make_plan(parse_scenario(TEXT, "small.yaml", ["fit.ranks=4", "fit.network=absent.json"]))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "1,,2", "many", "1,0", "9" * 12])
def test_a_number_of_hosts_that_is_none(text):
    with pytest.raises(UsageError, match=r"^--nodes: .*: write a whole number from 1, or several, as in 1,2,4$"):
        hosts(text)


def test_hosts_of_nothing():
    with pytest.raises(UsageError, match=r"^--nodes: '16': hosts of what\? add --hardware, such as h100x8$"):
        parse_hosts(None, "16")
    assert parse_hosts(None, None) == []


def test_hosts_without_a_known_network_and_too_many():
    with pytest.raises(UsageError, match="no network between hosts of rtx4090 is published, of a100-40gb, "):
        hosts("2", "rtx4090x2")
    assert hosts("1", "rtx4090x2")[0].devices == 2
    with pytest.raises(UsageError, match="are 80000 devices: 65536 are the most"):
        hosts("10000")


def test_a_table_that_the_ranks_do_not_divide_says_so_in_its_row():
    made = plan(3)
    reasons = {each.layout: each.skipped for each in made.layouts if (each.arm, each.mode) == ("memory", "forward")}
    assert reasons["columns"] == "value rows of 256 columns cannot be cut into 24 equal column shards"
    assert reasons["columns in a host"] is None
    case = next(each for each in made.cases if each.case.arm == "memory")
    assert case.skipped == f"P = 24: {reasons['columns']}"
    rows = [cells for cells in layouts_table(made).cells() if cells[0] == "memory" and cells[2] == "columns"]
    assert all(cells[-1] == reasons["columns"] and cells[-2] == "-" for cells in rows)


def test_what_does_not_fit_says_how_much_is_missing():
    made = make_plan(load_scenario("scale_out"), hardware=hosts("1")[0])
    whole = next(each for each in made.layouts if (each.arm, each.layout) == ("dense", "replicas"))
    assert whole.skipped.startswith("needs ")
    assert whole.skipped.endswith(" GB a device, has 80.0 GB")
    assert whole.step_ms is None


def test_the_curve_has_a_column_for_each_number_of_devices():
    plans = [make_plan(load_scenario("scale_out"), hardware=each) for each in hosts("1,16,128")]
    table = curve_table(plans)
    assert table.headers()[3:] == ["8 devices", "128 devices", "1024 devices"]
    cells = {(row[0], row[1], row[2]): row[3:] for row in table.cells()}
    assert cells["dense", "forward", "replicas"] == ["-", "-", "-"]
    assert "-" not in cells["memory", "train_step row_adagrad", "columns"]
    assert cells["memory", "forward", "columns in a host"][0] == "-", "there is one host"
    assert len(cells) == len(plans[-1].layouts)


def test_a_plan_for_several_devices_shows_the_ways():
    titles = [table.title for table in plan_tables(plan(2))]
    assert titles[-1] == "Ways to share a layer, 2 hosts of h100x8"


def test_1024_devices_are_the_sum_of_their_collectives():
    """One case by hand: a dense layer's forward pass gathers its weights once."""
    made = plan(128)
    (one,) = [each for each in made.layouts if (each.arm, each.mode, each.layout) == ("dense", "forward", "fsdp")]
    weights = 3 * 256 * 4096 * 2
    gathered = Collective("all_gather", weights, 1024)
    assert one.communication_ms == pytest.approx(1e3 * nccl_network(hosts("128")[0]).seconds(gathered))


@pytest.mark.parametrize("scenario", ["iso_model_8b", "capacity", "decode_batch", "scale_out"])
@pytest.mark.parametrize(("hardware", "count"), [("h100", "5"), ("h100x8", "3"), ("h100x8", "8192")])
def test_every_level_has_a_step_or_a_reason_on_any_number_of_hosts(scenario, hardware, count):
    made = make_plan(load_scenario(scenario), hardware=hosts(count, hardware)[0])
    assert made.layouts
    for each in made.layouts:
        assert (each.skipped is None) == (each.step_ms is not None and each.step_ms > 0), each
