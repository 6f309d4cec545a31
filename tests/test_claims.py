"""Claims of the literature beside what was measured: who agrees, and when nobody can tell."""

from pathlib import Path

import pytest
from training_cases import learnt

from benchmarks.documents.claims_table import AGREES, CANNOT_TELL, DISAGREES, claims_table, comparisons, verdict
from benchmarks.documents.curve_pictures import _titles, curve_picture
from benchmarks.documents.published_claims import CLAIMS, Claim
from benchmarks.documents.recorded import Recorded
from benchmarks.standings import MIN_ROUNDS
from membench.results.differences import holm
from membench.scenario.scenario import load_scenario

CLAIM = Claim("a memory stores more", "a paper", "capacity", (("memory", "dense"),))
DENSE = [3.0, 3.2, 3.1]


MORE = [
    f"arms.{arm}={{layer: {arm}, num_keys: 256, heads: 2, top_k: 4, key_dim: 16}}" for arm in ("memory_plus", "peer")
]


def found(claim, **nlls):
    compared = comparisons(claim, learnt(nlls, *MORE).cases)
    assert compared is not None
    return verdict(claim, compared, holm([each.p for each in compared]))


def test_a_claim_is_agreed_with_contradicted_or_left_open():
    assert found(CLAIM, dense=DENSE, memory=[2.0, 2.21, 2.09]) == AGREES
    assert found(CLAIM, dense=[2.0, 2.21, 2.09], memory=DENSE) == DISAGREES
    assert found(CLAIM, dense=DENSE, memory=[3.1, 3.0, 3.2]) == CANNOT_TELL


def test_nothing_gained_needs_an_interval_about_nothing():
    alike = Claim("no gain", "none", "capacity", (("memory", "dense"),), alike=True)
    assert found(alike, dense=DENSE, memory=[3.01, 3.2, 3.095]) == AGREES
    assert found(alike, dense=DENSE, memory=[2.0, 2.21, 2.09]) == DISAGREES
    assert found(alike, dense=DENSE, memory=[3.3, 2.9, 3.1]) == CANNOT_TELL


def test_one_comparison_the_other_way_round_contradicts_a_claim_of_several():
    several = Claim("a, b, c", "a paper", "capacity", (("memory", "dense"), ("peer", "memory")))
    assert found(several, dense=DENSE, memory=[2.0, 2.21, 2.09], peer=[4.0, 4.19, 4.11]) == DISAGREES
    assert found(several, dense=DENSE, memory=[2.0, 2.21, 2.09], peer=[2.1, 2.0, 2.2]) == CANNOT_TELL


def test_a_claim_of_one_budget_is_told_by_that_budget():
    tokens = "training.stop={tokens: %d}"
    nlls = {"dense": DENSE, "memory": [2.0, 2.21, 2.09]}
    short, long = (learnt(nlls, tokens % budget).cases for budget in (640, 1280))
    of_long = Claim("a, at length", "a paper", "capacity", (("memory", "dense"),), tokens=1280)
    compared = comparisons(of_long, [*short, *long])
    assert compared is not None and {each.better.id for each in compared} <= {record.id for record in long}
    assert comparisons(of_long, short) is None


def test_without_an_arm_or_seeds_enough_there_is_nothing_to_say():
    assert comparisons(CLAIM, learnt({"dense": DENSE}).cases) is None
    assert comparisons(CLAIM, learnt({"dense": [3.0, 3.1], "memory": [2.0, 2.1]}).cases) is None


def test_every_claim_is_of_arms_that_its_scenario_has_with_rounds_enough():
    for claim in CLAIMS:
        scenario = load_scenario(claim.scenario)
        assert {arm for pair in claim.pairs for arm in pair} <= scenario.arms.keys(), claim.says
        assert scenario.training.get("seeds", MIN_ROUNDS) >= MIN_ROUNDS
        budgets = scenario.axes.get("training.stop", [scenario.training.get("stop")])
        assert claim.tokens is None or {"tokens": claim.tokens} in budgets


def test_a_table_corrects_over_all_its_comparisons_and_links_its_files():
    result = learnt({"dense": DENSE, "memory": [2.0, 2.21, 2.09], "memory_plus": [1.5, 1.6, 1.7], "peer": DENSE}, *MORE)
    run = Recorded(Path("capacity_x.json"), result)
    table = claims_table({"capacity": [run]})
    assert table is not None
    lines = table.splitlines()
    assert len(lines) == 2 + 3  # of those in CLAIMS whose arms are all there
    assert "(../results/capacity_x.json)" in lines[2] and "`memory` below `dense` by 1 (0.975 – 1.02)" in lines[2]
    assert claims_table({}) is None


def test_curves_are_drawn_the_same_every_time():
    pytest.importorskip("matplotlib")
    result = learnt({"dense": DENSE, "memory": [2.0, 2.21, 2.09]})
    drawn = curve_picture(result)
    assert drawn is not None and drawn == curve_picture(result)
    assert curve_picture(result.model_copy(update={"cases": []})) is None


@pytest.mark.parametrize(
    ("whole", "short"),
    [
        (["facts, 600K tokens"], ["facts, 600K tokens"]),
        (["facts, 600K tokens, pool 1", "facts, 600K tokens, pool 2"], ["pool 1", "pool 2"]),
        (["facts, 600K tokens, batch 8", "copy, 600K tokens, batch 4"], ["facts", "copy"]),
        (
            ["facts, 1 token, pool 1", "facts, 1 token, pool 2", "copy, 1 token, pool 1"],
            ["facts, pool 1", "facts, pool 2", "copy, pool 1"],
        ),
    ],
)
def test_panels_beside_each_other_say_what_tells_them_apart(whole, short):
    assert _titles(whole) == short
