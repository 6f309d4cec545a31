"""What a profile makes of times and counts; what its options mean; how it is shown. Nothing is measured here."""

from itertools import pairwise

import pytest

from benchmarks.documents.recorded import own_form
from layers.spec import StageCost
from membench.errors import UsageError
from membench.planning.planner import make_plan
from membench.profiler.asked import Asked, naming_options, scenario_of
from membench.profiler.profile_file import as_text, write_profile
from membench.report.profile_picture import _spread, check_picture_path, points_of, write_roofline
from membench.results.ceilings import Ceilings
from membench.results.floors import stage_rows
from membench.results.profile import REST, KernelRow, LayerProfile, ModeProfile, Profile, StageKey
from membench.tables.profile import next_steps, profile_tables
from membench.tables.render import to_csv, to_markdown

CEILINGS = {
    "copy_bytes_per_s": 10e9,
    "read_bytes_per_s": 8e9,
    "random_row_bytes_per_s": 4e9,
    "matmul_flops_per_s": 100e9,
}
COSTS = [
    StageCost("scores", 1e9, 1e9, 10e6),
    StageCost("scores", 2e9, 2e9, 20e6, backward=True),
    StageCost("bag", 1e6, 1e6, 1e6, 40e6, 80e6, 60e6),
    StageCost("experts_up", 2e9, 2e9, 5e6),
    StageCost("experts_down", 1e9, 1e9, 5e6),
    StageCost("update", stream_bytes=50e6),
]


def rows(times_ms, costs=COSTS, ceilings=CEILINGS):
    return {row.label: row for row in stage_rows({k: t / 1e3 for k, t in times_ms.items()}, costs, ceilings)}


def test_a_floor_is_the_longer_of_flops_and_bytes():
    found = rows({REST: 5, StageKey("scores"): 20, StageKey("bag"): 32, StageKey("update"): 10})
    scores, bag, update = found["scores"], found["bag"], found["update"]
    assert (scores.floor_ms, scores.limit) == (pytest.approx(10), "compute")
    assert scores.of_ceiling == pytest.approx(0.5)
    assert scores.times_floor == pytest.approx(2)
    assert scores.excess_ms == pytest.approx(10)
    assert scores.flops_per_s == pytest.approx(50e9)
    # 1 MB of streams at the faster of copy and read, 60 MB of rows at the rows' own ceiling
    assert (bag.floor_ms, bag.limit) == (pytest.approx(0.1 + 15), "memory")
    assert bag.bytes_per_s == pytest.approx(61e6 / 32e-3)
    assert bag.bytes_min == 41e6
    assert (update.floor_ms, update.limit) == (pytest.approx(5), "memory")


def test_forward_and_backward_have_counts_of_their_own():
    found = rows({StageKey("scores"): 20, StageKey("scores", True): 20})
    assert found["scores"].flops == 1e9
    assert found["scores backward"].flops == 2e9


def test_a_fused_stage_covers_its_parts_unless_they_were_timed():
    assert rows({StageKey("experts"): 9})["experts"].flops == 3e9
    apart = rows({StageKey("experts"): 9, StageKey("experts_up"): 1})
    assert apart["experts"].flops == 1e9
    assert apart["experts_up"].flops == 2e9


def test_what_nothing_is_counted_for_is_all_above_its_floor():
    found = rows({REST: 1, StageKey("dispatch"): 3})
    assert found["dispatch"].flops is None
    assert found["dispatch"].floor_ms is None
    assert found["dispatch"].excess_ms == pytest.approx(3)
    assert found["rest"].flops is None


def test_shares_add_up_and_the_rest_is_last():
    found = rows({REST: 1, StageKey("scores"): 2, StageKey("bag"): 5})
    assert sum(row.share for row in found.values()) == pytest.approx(1)
    assert list(found) == ["scores", "bag", "rest"]


def test_an_unknown_ceiling_makes_no_floor():
    found = rows({StageKey("scores"): 1, StageKey("bag"): 1}, ceilings={**CEILINGS, "random_row_bytes_per_s": None})
    assert found["bag"].floor_ms is None
    assert found["bag"].excess_ms is None
    assert found["scores"].floor_ms is not None
    assert Ceilings.of({}).stream_bytes_per_s is None
    assert Ceilings.of({}).floor(0.0, 0.0, 0.0) == (0.0, "memory")


def a_mode(name="forward", times_ms=None, **known):
    times = times_ms or {REST: 0.1, StageKey("scores"): 20, StageKey("bag"): 32, StageKey("dispatch"): 2}
    stages = list(rows(times).values())
    kernels = [KernelRow(name="aten::<mm>", calls=2, time_ms=3.0, share=0.5)]
    whole = sum(times.values())
    facts = {"calls": 9, "step_ms": 0.99 * whole, "observed_ms": whole, "stages": stages, "kernels": kernels, **known}
    return ModeProfile(mode=name, optimizer=None, **facts)


def a_profile(*arms, **known):
    layers = [
        LayerProfile(
            arm=arm,
            layer={"kind": "memory", "model_dim": 64, "dtype": "float32", "num_keys": 4096},
            labels=[],
            tokens=8,
            params=10,
            rank_params=10,
            flops_per_token=1e6,
            routing={},
            ceilings=CEILINGS,
            modes=modes,
        )
        for arm, modes in arms
    ]
    facts = {"ranks": 1, "ranks_reason": "least power of two that fits everything", **known}
    return Profile(
        command="membench profile",
        started="2026-01-01T00:00:00Z",
        membench_version="0",
        git_sha=None,
        git_dirty=None,
        environment={"device": {"name": "x", "cores": 1, "type": "cpu"}},
        layers=layers,
        **facts,
    )


def test_the_next_step_is_the_stage_furthest_above_its_floor():
    mode = a_mode()
    assert mode.next_stage.name == "bag"
    (line,) = next_steps(a_profile(("memory", [mode])))
    assert line.startswith("Next, memory forward: bag is 16.9 ms above its floor (32 ms")
    assert "memory traffic would take 15.1 ms" in line


def test_the_rest_is_never_the_next_step():
    mode = a_mode(times_ms={REST: 900, StageKey("scores"): 11})
    assert mode.next_stage.name == "scores"


def test_a_small_rest_is_no_row_a_large_one_is():
    def stage_names(rest):
        mode = a_mode(times_ms={REST: rest, StageKey("scores"): 100})
        return [row[0] for row in profile_tables(a_profile(("memory", [mode])))[1].rows]

    assert stage_names(0.4) == ["scores"]
    assert stage_names(3) == ["scores", "rest"]


def test_a_failed_mode_is_told_and_has_no_tables():
    lost = ModeProfile(mode="train_step", optimizer="adamw", status="oom", reason="killed")
    profile = a_profile(("memory", [a_mode(), lost]))
    assert len(profile_tables(profile)) == 3
    assert next_steps(profile)[1] == "Not profiled: memory train_step: oom: killed"
    nothing = a_profile(("memory", [lost]))
    assert len(profile_tables(nothing)) == 1


def test_two_layers_are_set_side_by_side():
    fast = a_mode(times_ms={REST: 0.1, StageKey("scores"): 12})
    tables = profile_tables(a_profile(("memory", [a_mode()]), ("dense", [fast])))
    assert all(to_markdown(table) and to_csv(table) for table in tables)
    against = tables[-1]
    assert [row[1] for row in against.rows] == ["memory", "dense"]
    assert against.rows[1][3] == pytest.approx(12.1 / 54.1)
    # the difference of 42 ms: 15.1 of floor, the rest above it
    assert (
        "memory takes 42 ms longer, of which 15.1 ms are a higher floor and 26.9 ms more time above it"
        in against.caption
    )


def test_a_profile_is_written_beside_those_before_it(tmp_path):
    profile = a_profile(("memory", [a_mode()]), ("dense", [a_mode()]))
    assert write_profile(profile, tmp_path) is None
    (first,) = tmp_path.iterdir()
    assert first.name.startswith("profile-memory-dense_")
    assert first.read_text() == f"{as_text(profile)}\n"
    assert write_profile(profile, tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {first.name, f"{first.stem}-2.json"}
    assert own_form(first)["layers"][0]["arm"] == "memory"


def test_a_profile_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    told = write_profile(a_profile(("memory", [a_mode()])), tmp_path / "gone")
    (kept,) = tmp_path.iterdir()
    assert told is not None and "cannot be written" in told and str(kept) in told


def test_one_rank_of_several_is_said_at_the_top():
    caption = profile_tables(a_profile(("memory", [a_mode()]), ranks=2))[0].caption
    assert "One rank's share of a 2-way" in caption
    assert "1/2 of the columns" in caption


def planned(**options):
    asked = Asked(**options)
    scenario = scenario_of(asked, "cpu")
    with naming_options(asked):
        return make_plan(scenario, available_bytes=64 * 10**9).cases


def test_defaults_are_those_that_help_states():
    first, second = planned(layer="memory", dimensions={"num_keys": "16M"})
    spec = first.case.layer
    assert (spec.num_keys, spec.model_dim, spec.dtype) == (4096**2, 1024, "bfloat16")
    assert (spec.heads, spec.top_k, spec.key_dim) == (4, 32, 512)
    assert first.case.tokens == 512
    assert [first.case.mode, second.case.mode] == ["forward", "forward_backward"]
    assert scenario_of(Asked(layer="memory"), "cuda").workload.tokens == 16384
    assert planned(layer="memory")[0].case.layer.num_keys == 1024**2
    dense = planned(layer="dense", model_dim=256)[0].case.layer
    assert dense.ffn_hidden == 1024
    moe = planned(layer="moe", model_dim=256, dimensions={"top_k": 2})[0].case.layer
    assert (moe.num_experts, moe.expert_hidden, moe.top_k) == (64, 512, 2)
    peer = planned(layer="peer", dimensions={"num_keys": "4K"}, model_dim=128)[0].case.layer
    assert (peer.heads, peer.top_k, peer.key_dim) == (8, 16, 64)


@pytest.mark.parametrize("other", ["dense", "moe", "memory_plus"])
def test_the_other_layer_is_solved_to_equal_flops(other):
    dimensions = {"num_keys": "64K", "ffn_hidden": 3000} if other == "memory_plus" else {"num_keys": "64K"}
    first = "dense" if other == "memory_plus" else "memory"
    cases = planned(layer=first, against=other, dimensions=dimensions, model_dim=512)
    flops = {case.case.arm: case.achieved["flops_per_token"] for case in cases}
    assert flops[other] == pytest.approx(flops[first], rel=0.05)
    assert {case.case.arm for case in cases} == {first, other}
    if other == "memory_plus":
        assert cases[-1].case.layer.num_keys == 256**2


def test_a_scenario_key_can_be_set():
    case = planned(layer="moe", overrides=("router=sigmoid", "balancing=bias"))[0].case
    assert (case.layer.router, case.layer.balancing) == ("sigmoid", "bias")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer": "memry"}, "--layer: unknown layer 'memry'; did you mean 'memory'?"),
        ({"layer": "memory", "dimensions": {"num_keys": "128M"}}, "--keys: '128M' keys is no square"),
        ({"layer": "memory", "dimensions": {"num_keys": "many"}}, "--keys: 'many' is no key count"),
        ({"layer": "memory", "dimensions": {"num_experts": 8}}, "--experts: a memory layer has none; it has --keys"),
        ({"layer": "memory", "dimensions": {"key_dim": 33}}, "--layer memory: key_dim 33 is odd"),
        ({"layer": "memory", "dimensions": {"num_keys": "256", "top_k": 64}}, "--layer memory: top_k 64 is above"),
        ({"layer": "memory", "dimensions": {"heads": 0}}, "--heads: should be greater than 0"),
        ({"layer": "memory", "model_dim": 0}, "--dim: should be greater than 0"),
        ({"layer": "memory", "tokens": 0}, "--tokens: should be greater than 0"),
        ({"layer": "memory", "dtype": "int8"}, "--dtype: should be 'float32', 'bfloat16' or 'float16', not 'int8'"),
        ({"layer": "memory", "modes": ("backward",)}, "--mode: should be 'forward'"),
        ({"layer": "memory", "optimizer": "lion"}, "--optimizer: should be 'sgd'"),
        ({"layer": "memory", "routing": "random"}, "--routing: should be 'uniform'"),
        ({"layer": "memory", "ranks": 0}, "--ranks: should be auto or a whole number"),
        ({"layer": "memory", "against": "memory"}, "--against memory: is --layer itself"),
        ({"layer": "memory", "against": "dens"}, "--against: unknown layer 'dens'; did you mean 'dense'?"),
        (
            {"layer": "dense", "against": "memory", "dimensions": {"ffn_hidden": 64}},
            "--against memory: 393K FLOPs",
        ),
        ({"layer": "a.b:c", "against": "dense"}, "--against dense: the FLOPs of a layer from outside"),
        ({"layer": "moe", "overrides": ("rooter=sigmoid",)}, "--set rooter=sigmoid"),
        ({"layer": "moe", "overrides": ("router",)}, "--set router: write key=value"),
        ({"layer": "moe", "overrides": ("router=tanh",)}, "router"),
    ],
)
def test_a_bad_option_is_named(options, says):
    with pytest.raises(UsageError) as error:
        planned(**options)
    assert says in str(error.value)
    assert "arms." not in str(error.value)
    assert "\n" not in str(error.value)


def test_what_fits_nowhere_is_said_in_terms_of_options():
    asked = Asked(layer="memory", dimensions={"num_keys": "16G"}, tokens=2**20)
    with pytest.raises(UsageError) as error, naming_options(asked):
        make_plan(scenario_of(asked, "cpu"), available_bytes=4 * 10**9)
    assert "fit." not in str(error.value)
    assert "take fewer keys or tokens" in str(error.value)


def test_labels_of_a_picture_never_touch():
    for heights in ([0.1] * 12, [0.0, 0.5, 0.51, 0.52, 1.0], [1.0] * 5, [], [0.3]):
        placed = _spread(sorted(heights))
        gaps = [b - a for a, b in pairwise(placed)]
        assert all(gap >= 0.051 for gap in gaps), placed
        assert not placed or max(placed) <= 1.0 + 1e-9


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_a_roofline_is_drawn(tmp_path, suffix):
    profile = a_profile(("memory", [a_mode(), a_mode("forward_backward")]))
    path = tmp_path / f"roof{suffix}"
    check_picture_path(path)
    write_roofline(profile, path)
    found = path.read_bytes()
    assert {".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!doctype html>"}[suffix] in found[:20]
    if suffix != ".png":
        assert b"scores" in found
        assert b"dispatch" in found
    names = [point.name for point in points_of(profile.layers[0].modes[0])]
    assert names == ["scores", "bag", "dispatch", "rest"]


@pytest.mark.parametrize("name", ["roof.pdf", "roof", "nowhere/roof.png"])
def test_a_picture_that_cannot_be_written_is_refused_first(tmp_path, name):
    with pytest.raises(UsageError, match="--roofline"):
        check_picture_path(tmp_path / name)
