"""What seeds say together, differences of arms, and the gate over two files."""

import json
from pathlib import Path

import pytest
from training_cases import a_seed, learnt, record_of

import membench
from benchmarks.documents.learnt import learnt_parts
from membench.gate.comparison import compare_files
from membench.gate.result_set import LoadedResult
from membench.gate.thresholds import Thresholds
from membench.results.differences import holm, paired_p
from membench.results.learnt import interval, learnt_flags, learnt_metrics
from membench.results.records import ResultFile, Round, Trial, read_result, write_result
from membench.tables.results import result_tables

SEEDS = {"dense": [3.0, 3.2, 3.1], "memory": [2.0, 2.21, 2.09]}


def judged(base: ResultFile, head: ResultFile):
    found = compare_files(LoadedResult(Path("a"), base), LoadedResult(Path("b"), head), Thresholds())
    assert found.incomparable is None
    return {case.label.split()[0]: case for case in found.cases}


def test_a_metric_is_the_mean_over_seeds_with_student_s_interval():
    found = learnt_metrics([a_seed(n, nll) for n, nll in enumerate((1.0, 2.0, 3.0))])
    assert found["answer_nll"] == 2.0
    assert (found["answer_nll_low"], found["answer_nll_high"]) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
    assert found["tokens_trained"] == 640 and found["energy_j_per_token"] == pytest.approx(0.1)
    assert "tokens" not in found and "params" not in found
    assert interval([1.0, 2.0]) is None


def test_seeds_that_diverged_are_told_and_left_out():
    lost = Round(number=1, started="x", status="diverged", reason="loss is NaN at step 7")
    plan_file = learnt(SEEDS)
    record = record_of(plan_file, "dense")
    some = record.model_copy(update={"rounds": [record.rounds[0], lost]})
    assert learnt_flags(some) == [
        "seed 1 diverged: loss is NaN at step 7",
        "means are over the 1 seeds that did not diverge",
    ]
    assert learnt_metrics(some.rounds)["answer_nll"] == 3.0


def test_a_rate_at_the_edge_of_what_was_tried_is_told():
    trials = [Trial(rates={"learning_rate": rate}, seed=10**6, status="ok", final={}) for rate in (0.001, 0.01)]
    assert record_of(learnt(SEEDS, trials={"dense": trials}), "dense").flags == [
        "learning_rate 0.01 is the highest that was tried"
    ]


def test_holm_s_correction_is_that_of_the_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_p_of_paired_differences_is_student_s():
    from scipy.stats import ttest_1samp

    by = [0.3, 0.1, 0.2, 0.4]
    assert paired_p(by) == pytest.approx(ttest_1samp(by, 0).pvalue)
    assert paired_p([0.1, 0.2]) is None and paired_p([0.0] * 3) == 1.0


def test_arms_are_told_apart_by_their_paired_seeds():
    result = learnt(SEEDS)
    nll = next(each for each in result.differences if each.metric == "answer_nll")
    assert (nll.arm, nll.other, nll.seeds, nll.told_apart) == ("dense", "memory", 3, True)
    assert nll.mean == pytest.approx(-1.0) and nll.low < -1 < nll.high < 0
    answer = result_tables(result)[0].rows[0]
    assert answer[0] == "facts, 6 steps" and answer[1] == "memory" and "dense +1" in answer[-1]
    alike = learnt({"dense": [3.0, 3.2, 3.1], "memory": [3.1, 3.0, 3.2]})
    assert not any(each.told_apart for each in alike.differences)


def test_a_file_is_read_back_and_an_old_one_has_nothing_new(tmp_path):
    result = learnt(SEEDS)
    write_result(result, tmp_path / "a.json")
    assert read_result(tmp_path / "a.json") == result
    content = json.loads((tmp_path / "a.json").read_text())
    for case in content["cases"]:
        del case["trials"]
        for round_ in case["rounds"]:
            for name in ("curve", "final", "rates", "data"):
                del round_[name]
    del content["differences"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_result(tmp_path / "a.json").cases[0].rounds[0].curve == []


def test_a_row_a_point_of_every_curve(tmp_path):
    write_result(learnt(SEEDS), tmp_path / "a.json")
    frame = membench.read_results(tmp_path / "a.json", per="point")
    assert len(frame) == 2 * 3 * 3
    first = frame.iloc[0]
    assert (first.arm, first.task, first.seed, first.step) == ("dense", "facts", 0, 1)
    assert first.answer_nll == pytest.approx(3.9) and first.seconds == 0.5
    assert membench.read_results(tmp_path / "a.json").answer_nll.tolist() == pytest.approx([3.1, 2.1])


def test_two_runs_of_the_same_are_the_same():
    cases = judged(learnt(SEEDS), learnt(SEEDS))
    assert {str(case.worst.verdict) for case in cases.values()} == {"SAME"}


def test_an_arm_made_worse_is_found_and_the_other_not():
    worse = {**SEEDS, "memory": [each + 0.5 + n / 100 for n, each in enumerate(SEEDS["memory"])]}
    cases = judged(learnt(SEEDS), learnt(worse))
    assert str(cases["memory"].worst.verdict) == "WORSE" and "3 paired seeds" in cases["memory"].worst.reason
    assert str(cases["dense"].worst.verdict) == "SAME"
    assert str(judged(learnt(worse), learnt(SEEDS))["memory"].metrics[0].verdict) == "BETTER"


def test_a_table_that_was_frozen_is_another_case_and_held_against_it_all_the_same():
    worse = {**SEEDS, "memory": [each + 0.5 for each in SEEDS["memory"]]}
    cases = judged(learnt(SEEDS), learnt(worse, "training.frozen_tables=true"))
    assert str(cases["memory"].worst.verdict) == "WORSE"
    assert "trained otherwise: frozen_tables" in cases["memory"].worst.reason


def with_rounds(result: ResultFile, changed) -> ResultFile:
    """A file whose rounds are what ``changed`` makes of them."""
    cases = [record.model_copy(update={"rounds": [*map(changed, record.rounds)]}) for record in result.cases]
    return result.model_copy(update={"cases": cases})


def trained_on(*texts: str):
    """Seed n on the n-th of these, each with an example of its own."""
    return lambda r: r.model_copy(update={"data": {"sha256": texts[r.number], "trained_example": str(r.number)}})


def test_what_was_trained_on_other_data_is_not_held_against_it():
    one, other = (with_rounds(learnt(SEEDS), trained_on(*text * 3)) for text in "ab")
    for case in judged(one, other).values():
        assert (str(case.worst.verdict), case.worst.reason) == ("INCOMPARABLE", "trained on other data: sha256 differs")
    assert {str(case.worst.verdict) for case in judged(one, one).values()} == {"SAME"}


def test_files_that_changed_between_seeds_are_flagged():
    def flags(*texts: str) -> list[str]:
        return learnt_flags(record_of(with_rounds(learnt(SEEDS), trained_on(*texts)), "dense"))

    assert flags("a", "a", "b") == ["the files that it is trained on changed between seeds"]
    assert flags("a", "a", "a") == []


def test_a_seed_that_diverges_now_fails_and_one_that_always_did_does_not():
    def lost(r: Round) -> Round:
        return r if r.number != 1 else Round(number=1, started="x", status="diverged", reason="loss nan at step 7")

    whole, less = learnt(SEEDS), with_rounds(learnt(SEEDS), lost)
    for case in judged(whole, less).values():
        assert str(case.worst.verdict) == "FAILED"
        assert case.worst.reason == "seed 1 was ok, now diverged: loss nan at step 7"
    assert not any(case.worst.verdict.is_regression for case in judged(less, less).values())
    assert not any(case.worst.verdict.is_regression for case in judged(less, whole).values())


def test_exact_match_is_better_when_higher():
    cases = judged(learnt(SEEDS, ems={"dense": 0.5}), learnt(SEEDS, ems={"dense": 0.4}))
    assert [(m.metric, str(m.verdict)) for m in cases["dense"].metrics if m.metric == "em"] == [("em", "WORSE")]


def test_other_seeds_are_two_samples():
    near = {"dense": [3.05, 3.15, 3.12], "memory": [2.05, 2.15, 2.12]}
    cases = judged(learnt(SEEDS), learnt(near, first=100))
    assert not any(case.worst.verdict.is_regression for case in cases.values())
    far = {arm: [each + 3 for each in of] for arm, of in near.items()}
    cases = judged(learnt(SEEDS), learnt(far, first=100))
    assert all(str(case.worst.verdict) == "WORSE" for case in cases.values())
    assert "seeds 3 against 3" in cases["dense"].worst.reason


def test_a_document_says_the_answer_and_has_every_arm():
    answer, arms = learnt_parts(learnt(SEEDS))
    assert answer.startswith("**facts, 6 steps**: the lowest answer NLL is memory's, 2.1 (")
    assert "Surely worse, in nats: dense +1." in answer.replace("\n", " ")
    assert [line.split(" | ")[0] for line in arms.splitlines()[2:]] == ["| memory", "| dense"]
    assert "answer NLL" in arms.splitlines()[0] and "J/token" in arms.splitlines()[0]
