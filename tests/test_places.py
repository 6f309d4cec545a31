"""Places: arms share them where their difference could be chance, and no order is made up where none is known."""

import math
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from house import ROOT
from report_results import a_key_sweep, a_sweep
from test_intervals import SEED, rounds_of
from test_records import a_run
from test_results_table import a_record

from membench.planning.planner import make_plan
from membench.results.answers import answer, answers_of, how_compared, places_of
from membench.results.derived import with_derived
from membench.results.metrics import metrics_of
from membench.results.places import places
from membench.results.ranking import comparable_groups
from membench.results.records import ResultFile, read_result, write_result
from membench.running.result_file import assemble
from membench.scenario.scenario import load_scenario


def an_arm(name, seconds, *, communication_ms=0.0, **case):
    """A record of an arm with a round for each time; None is a round that failed."""
    record = a_record(name, None, **case)
    record.rounds = [r for r, s in zip(rounds_of([s or 1.0 for s in seconds]), seconds, strict=True) if s]
    record.metrics = metrics_of(record.case, record.rounds, communication_ms=communication_ms)
    return record


def in_rounds(means, rounds, noise, rng, drift=0.0):
    """Records of arms with these mean times, whose rounds share a drift."""
    of_round = [rng.gauss(0, drift) for _ in range(rounds)]
    spreads = noise if isinstance(noise, list) else [noise] * len(means)
    return [
        an_arm(f"arm{i}", [mean * math.exp(rng.gauss(0, s) + d) for d in of_round])
        for i, (mean, s) in enumerate(zip(means, spreads, strict=True))
    ]


def shown(records):
    found = answer("here", records)
    return {each.arm: each.places for each in found.standings}


def test_arms_far_apart_have_a_place_each_and_those_that_are_near_share_them():
    records = [
        an_arm("slow", [0.030, 0.0301, 0.0302]),
        an_arm("b", [0.0101, 0.0100, 0.0102]),
        an_arm("a", [0.0100, 0.0101, 0.0100]),
    ]
    assert shown(records) == {"a": (1, 2), "b": (1, 2), "slow": (3, 3)}
    found = answer("here", records)
    assert found.fastest == ["a", "b"]
    assert [each.arm for each in found.standings] == ["a", "b", "slow"]


def test_an_arm_between_two_that_are_told_apart_may_share_with_both():
    noise = (-0.01, 0.0, 0.01)
    other = (0.01, -0.01, 0.0)
    records = [
        an_arm(name, [0.010 * math.exp(mean + e) for e in of])
        for name, mean, of in (("a", 0.0, noise), ("b", 0.03, other), ("c", 0.06, noise))
    ]
    assert shown(records) == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}


def test_differences_are_taken_within_rounds():
    """A drift of 30 % between rounds hides no difference of 5 %: every round shows it."""
    drift = (1.0, 1.3, 0.8)
    records = [
        an_arm("a", [0.0100 * d for d in drift]),
        an_arm("b", [0.0105 * d * e for d, e in zip(drift, (1, 1.001, 1.002), strict=True)]),
    ]
    assert shown(records) == {"a": (1, 1), "b": (2, 2)}
    low, high = (records[0].metrics[f"step_ms_{end}"] for end in ("low", "high"))
    assert low < 10.5 < high  # though the interval of either holds the other


def test_steps_are_compared_and_not_latencies():
    records = [
        an_arm("computes", [0.0100, 0.0101, 0.0102]),
        an_arm("sends", [0.0050, 0.0051, 0.0052], communication_ms=15.0),
    ]
    assert shown(records) == {"computes": (1, 1), "sends": (2, 2)}


def test_a_noisy_arm_is_not_judged_by_its_quiet_neighbours():
    quiet = [an_arm(f"q{i}", [0.01 * (1 + 1e-4 * ((i * r) % 3)) for r in range(3)]) for i in range(12)]
    noisy = an_arm("noisy", [0.009, 0.013, 0.0125])
    assert shown([*quiet, noisy])["noisy"][0] == 1


@pytest.mark.parametrize(("rounds", "why"), [(1, "one round"), (2, "two rounds")])
def test_fewer_than_three_rounds_have_no_order(rounds, why):
    records = [an_arm("a", [0.01] * rounds), an_arm("b", [0.09] * rounds)]
    found = answer("here", records)
    assert found.no_order == why
    assert found.fastest == []
    assert [each.places for each in found.standings] == [None, None]
    assert [each.arm for each in found.standings] == ["a", "b"]
    assert how_compared(records, found).endswith(": no order.")


def test_rounds_that_not_all_have_are_left_out():
    whole = [0.010, 0.011, 0.0105, 0.0101]
    records = [an_arm("a", whole), an_arm("b", [0.030, None, 0.031, 0.0305])]
    assert shown(records) == {"a": (1, 1), "b": (2, 2)}
    assert "median of 3 to 4 rounds" in how_compared(records, answer("here", records)).lower()
    records = [an_arm("a", whole), an_arm("b", [0.030, None, None, 0.0305])]
    found = answer("here", records)
    assert found.no_order == "two rounds in common"
    assert "two rounds in common: no order" in how_compared(records, found)


def test_equal_times_are_no_order():
    records = [an_arm(name, [0.01, 0.01, 0.01]) for name in "abc"]
    assert set(shown(records).values()) == {(1, 3)}


def test_one_arm_has_no_place_and_its_interval_stands():
    records = [an_arm("alone", [0.010, 0.011, 0.012])]
    found = answer("here", records)
    assert (found.no_order, found.standings[0].places, found.fastest) == ("one arm", None, [])
    assert found.standings[0].interval_ms is not None
    assert how_compared(records, found) == "Median of 3 rounds, 95 % interval over rounds."


def test_nothing_measured_is_said():
    failed = a_record("a", None, status="error")
    assert answer("here", [failed]).model_dump() == {
        "compared_at": "here",
        "no_order": "nothing was measured",
        "standings": [],
        "fastest": [],
        "dense": None,
        "at_dense_flops": [],
        "failed": ["a"],
    }
    assert places([]).ids == []


@pytest.mark.parametrize("rounds", [3, 5, 8])
def test_equal_arms_are_rarely_told_apart(rounds):
    """All pairs together at 95 %, whatever the rounds drift."""
    rng = random.Random(SEED)
    wrong = sum(bool(places(in_rounds([0.01] * 6, rounds, 0.03, rng, 0.05)).faster) for _ in range(150))
    assert wrong / 150 < 0.12  # at most 5 % are expected


def test_two_runs_tell_no_pair_apart_the_other_way():
    """Arms a few percent apart, of unequal noise, in two runs each."""
    rng = random.Random(SEED)
    means, noise = [0.0100, 0.0103, 0.0106, 0.0112, 0.0120, 0.0150], [0.01, 0.02, 0.03, 0.05, 0.02, 0.02]
    told = 0
    for _ in range(40):
        one, other = (places(in_rounds(means, 3, noise, rng, 0.03)).faster for _ in range(2))
        assert not one & {(b, a) for a, b in other}
        told += len(one)
    assert told > 40


def test_a_difference_that_is_there_is_found():
    rng = random.Random(SEED)
    found = sum(shown(in_rounds([0.010, 0.013, 0.017], 3, 0.02, rng, 0.1))["arm2"] == (3, 3) for _ in range(40))
    assert found > 30


def test_dense_flops_are_answered_by_whoever_may_be_the_fastest_there():
    records = [
        an_arm("dense", [0.0200, 0.0201, 0.0202]),
        an_arm("companion", [0.0201, 0.0200, 0.0203], kind="memory"),
        an_arm("memory", [0.0100, 0.0101, 0.0102], kind="memory"),
    ]
    for record, flops in zip(records, (1.0, 1.005, 0.5), strict=True):
        record.achieved = {"flops_per_token": flops}
    found = answer("here", records)
    assert (found.fastest, found.dense) == (["memory"], "dense")
    assert sorted(found.at_dense_flops) == ["companion", "dense"]
    records[1].achieved = {"flops_per_token": 2.0}
    assert answer("here", records).at_dense_flops == []  # dense is alone there


def a_result(records, **run):
    result = a_sweep(tokens=(8,), modes=("forward",), **run)
    for number, record in enumerate(records):
        record.id = f"{record.case.arm}-{number}"
    return result.model_copy(update={"cases": list(records)})


def test_the_place_of_a_layer_that_is_not_routed_is_null_where_routings_disagree():
    routed = {"kind": "memory"}
    slow, fast = [0.030, 0.0301, 0.0303], [0.010, 0.0101, 0.0103]
    dense = an_arm("dense", [0.020, 0.0201, 0.0203])
    arms = [
        dense,
        an_arm("memory", fast, routing={"kind": "uniform"}, **routed),
        an_arm("memory", slow, routing={"kind": "zipf", "zipf_exponent": 1.0}, **routed),
    ]
    assert places_of(a_result(arms)) == {"memory-1": (1, 1), "memory-2": (2, 2)}
    arms[2] = an_arm("memory", fast, routing={"kind": "zipf", "zipf_exponent": 1.0}, **routed)
    assert places_of(a_result(arms))["dense-0"] == (2, 2)


def test_an_arm_s_best_optimizer_changes_nothing_about_its_places():
    train = {"mode": "train_step", "kind": "memory"}
    arms = [
        an_arm("a", [0.010, 0.0101, 0.0103], optimizer="adamw", **train),
        an_arm("a", [0.005, 0.0051, 0.0053], optimizer="row_adagrad", **train),
        an_arm("b", [0.008, 0.0081, 0.0083], optimizer="adamw", **train),
        an_arm("b", [0.009, 0.0091, 0.0093], optimizer="row_adagrad", **train),
    ]
    result = a_result(arms)
    assert places_of(result) == {"a-0": (2, 2), "b-2": (1, 1), "a-1": (1, 1), "b-3": (2, 2)}
    best = next(each for title, each in answers_of(result).items() if "best optimizer" in title)
    assert [(each.arm, each.id, each.places) for each in best.standings] == [("a", "a-1", (1, 1)), ("b", "b-2", (2, 2))]


def test_answers_of_a_file_are_taken_from_it_and_made_for_one_that_has_none(tmp_path):
    result = a_sweep(rounds=3)
    made = answers_of(result)
    assert list(made) == [
        f"{mode}, {tokens} tokens a rank, routing routed"
        for tokens in (8, 64)
        for mode in ("forward", "forward_backward")
    ]
    kept = result.model_copy(update={"answers": list(made.values())})
    write_result(kept, tmp_path / "r.json")
    again = read_result(tmp_path / "r.json")
    assert answers_of(again) == made
    again.answers[0].fastest = ["as the file says"]
    assert next(iter(answers_of(again).values())).fastest == ["as the file says"]


@pytest.mark.parametrize("change", [{"id": "another"}, {"step_ms": 0.0}, None])
def test_an_answer_of_other_cases_or_times_than_the_file_holds_is_made_anew(change):
    records = [an_arm("a", [0.01, 0.011, 0.012]), an_arm("b", [0.02, 0.021, 0.022])]
    result = ResultFile(run=a_run(rounds=3), environment={}, cases=records)
    made = answers_of(result)
    [kept] = made.values()
    first, *others = kept.standings
    edited = [*([] if change is None else [first.model_copy(update=change)]), *others]
    answers = [kept.model_copy(update={"standings": edited, "fastest": ["b"]})]
    assert answers_of(result.model_copy(update={"answers": answers})) == made


def test_files_of_before_get_what_their_rounds_tell():
    result = a_sweep(rounds=3)
    names = ("floor_ms", "over_floor", "step_ms_low", "step_ms_high")
    wanted = [[record.metrics.get(name) for name in names[:2]] for record in result.cases]
    for record in result.cases:
        for name in names:
            record.metrics.pop(name, None)
    found = with_derived(result)
    assert [[record.metrics.get(name) for name in names[:2]] for record in found.cases] == wanted
    measured = [record for record in found.cases if record.status == "ok"]
    assert all(r.metrics["step_ms_low"] < r.metrics["step_ms"] < r.metrics["step_ms_high"] for r in measured)
    assert found.cases[-1].metrics == {}  # a case that failed has none
    assert "floor_ms" not in result.cases[0].metrics  # the file's own records are as they were
    assert with_derived(found) is found


def test_a_file_without_cost_or_ceilings_has_null_floors():
    result = a_key_sweep()
    for record in result.cases:
        del record.metrics["floor_ms"], record.metrics["over_floor"]
        record.rounds[0].cost.pop("bytes_dram_expected")
    found = with_derived(result).cases[0].metrics
    assert (found["floor_ms"], found["over_floor"]) == (None, None)


def test_scipy_is_imported_only_where_an_order_is_asked_for():
    code = (
        "import sys; from membench.results import answers, places, quantiles\n"
        "assert not {'scipy', 'pandas', 'torch'} & set(sys.modules)\n"
        "quantiles.studentized_range(2, 2)\n"
        "assert 'scipy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_schema_has_answers_and_they_may_be_absent():
    result = a_sweep(rounds=1)
    tree = result.model_dump(mode="json")
    del tree["answers"]
    assert ResultFile.model_validate(tree).answers == []


def test_a_run_s_file_holds_its_answers_and_pools_the_spread_of_its_cases():
    plan = make_plan(load_scenario("quickstart"), available_bytes=int(64e9))
    noise = (0.0, 0.1, -0.1)
    ids = [planned.case.id for planned in plan.cases]
    rounds = {id_: rounds_of([0.01 * math.exp(e * (id_ == ids[0])) for e in noise]) for id_ in ids}
    environment = {"device": {"name": "x", "cores": 1, "type": "cpu"}}
    result = assemble(
        plan, a_run(rounds=3), environment, SimpleNamespace(latest=rounds.__getitem__, latest_trials=lambda _: [])
    )
    assert [each.compared_at for each in result.answers] == list(comparable_groups(result.cases))
    assert all(each.no_order is None for each in result.answers)
    quiet = result.cases[-1].metrics
    assert quiet["step_ms_low"] < quiet["step_ms"] < quiet["step_ms_high"]  # by the noise of another case
