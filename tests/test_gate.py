"""Verdicts: what is slower, larger, wrong or gone, what is the same, and what nobody can tell."""

import json

import numpy as np
import pytest
from gate_results import a_file, a_record, noisy, side
from test_records import CEILINGS

from membench.errors import UsageError
from membench.gate.comparison import compare_files, confirmed
from membench.gate.outcome import outcome_of
from membench.gate.result_set import LoadedResult
from membench.gate.thresholds import Thresholds, load_thresholds
from membench.gate.verdicts import Verdict

DEFAULT = Thresholds()


def compared(base, head, thresholds=DEFAULT, advisory=None, tmp="x"):
    return compare_files(LoadedResult(tmp, base), LoadedResult(tmp, head), thresholds, advisory)


def only(found):
    assert len(found.cases) == 1
    return found.cases[0].worst


def pair(rng, ratio, rounds=10, noise=0.01, drift=0.0, **head):
    """Two files whose rounds share a machine that drifts."""
    level = np.exp(drift * rng.standard_normal(rounds)) * 0.004
    base = [s * level_ for s, level_ in zip(noisy(rng, 1, rounds, noise), level / 1, strict=True)]
    slow = [s * ratio * level_ for s, level_ in zip(noisy(rng, 1, rounds, noise), level / 1, strict=True)]
    return a_file([a_record(base)], pair=side("base")), a_file([a_record(slow, **head)], pair=side("head"))


def test_the_same_code_is_the_same(seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, 1.0, noise=0.004)
    assert only(compared(base, head)).verdict is Verdict.SAME


@pytest.mark.parametrize(("ratio", "verdict"), [(1.08, Verdict.SLOW), (0.92, Verdict.FAST)])
def test_paired_rounds_see_through_a_drifting_machine(ratio, verdict, seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, ratio, noise=0.004, drift=0.3)
    found = compared(base, head)
    assert only(found).verdict is verdict
    assert only(found).change == pytest.approx(ratio - 1, abs=0.02)
    assert outcome_of([found], strict=True, advisory=False).exit_code == (1 if verdict is Verdict.SLOW else 0)


def test_the_same_numbers_unpaired_are_inconclusive(seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, 1.08, noise=0.004, drift=0.3)
    alone = [each.model_copy(update={"run": each.run.model_copy(update={"pair": None})}) for each in (base, head)]
    assert only(compared(*alone)).verdict is Verdict.INCONCLUSIVE
    for mixed in ((base, alone[1]), (alone[0], head), (base, base)):
        assert only(compared(*mixed)).verdict is Verdict.INCOMPARABLE


def test_unpaired_rounds_find_a_large_slowdown_and_pass_what_is_the_same(seed):
    rng = np.random.default_rng(seed)
    base = a_file([a_record(noisy(rng, 0.004, 8, 0.003))])
    slow, same = (a_file([a_record(noisy(rng, s, 8, 0.003))]) for s in (0.0046, 0.004))
    assert only(compared(base, slow)).verdict is Verdict.SLOW
    assert only(compared(base, same)).verdict is Verdict.SAME


@pytest.mark.parametrize(("rounds", "paired_"), [(7, True), (1, True), (4, False), (1, False)])
def test_too_few_rounds_never_pass(rounds, paired_, seed):
    rng = np.random.default_rng(seed)
    marks = [{"pair": side(name)} if paired_ else {} for name in ("base", "head")]
    base = a_file([a_record(noisy(rng, 0.004, rounds, 0.001))], **marks[0])
    head = a_file([a_record(noisy(rng, 0.008, rounds, 0.001))], **marks[1])
    found = compared(base, head)
    assert only(found).verdict is Verdict.INCONCLUSIVE
    assert "are needed" in only(found).reason
    assert outcome_of([found], strict=True, advisory=False).exit_code == 3
    assert outcome_of([found], strict=False, advisory=False).exit_code == 0


def test_a_slower_machine_is_no_regression(seed):
    rng = np.random.default_rng(seed)
    slow_machine = {**CEILINGS, "matmul_flops_per_s": CEILINGS["matmul_flops_per_s"] * 0.85}
    base = a_file([a_record(noisy(rng, 0.004, 8, 0.003))])
    head = a_file([a_record(noisy(rng, 0.0046, 8, 0.003), ceilings=slow_machine)])
    found = only(compared(base, head))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "machine itself" in found.reason
    much = a_file([a_record(noisy(rng, 0.006, 8, 0.003), ceilings=slow_machine)])
    assert only(compared(base, much)).verdict is Verdict.SLOW


@pytest.mark.parametrize(
    ("metric", "before", "after", "verdict"),
    [
        ("flops", 2e6, 2.001e6, Verdict.WORSE),
        ("flops", 2e6, 1.9e6, Verdict.BETTER),
        ("bytes_min", 1e6, 1.009e6, Verdict.SAME),
        ("bytes_min", 1e6, 1.02e6, Verdict.WORSE),
        ("params", 0, 1, Verdict.WORSE),
    ],
)
def test_counts_gate_hard_with_one_round(metric, before, after, verdict):
    base, head = (a_file([a_record([0.004], cost={metric: v})]) for v in (before, after))
    found = compared(base, head, advisory="nothing is set")
    metrics = {m.metric: m.verdict for m in found.cases[0].metrics}
    assert metrics[metric] is verdict
    assert outcome_of([found], strict=False, advisory=False).exit_code == (1 if verdict is Verdict.WORSE else 0)


def test_a_case_that_fails_now_or_is_gone_fails(seed):
    rng = np.random.default_rng(seed)
    rounds = noisy(rng, 0.004, 8)
    two = [a_record(rounds, arm="a"), a_record(rounds, arm="b")]
    broken = [two[0], two[1].model_copy(update={"status": "oom", "reason": "no memory", "rounds": []})]
    for head, verdict in ((broken, Verdict.FAILED), (two[:1], Verdict.MISSING)):
        found = compared(a_file(two), a_file(head))
        assert found.cases[0].worst.verdict is verdict
        assert outcome_of([found], strict=False, advisory=False).exit_code == 1
    for base, verdict in ((broken, Verdict.FIXED), (two[:1], Verdict.NEW)):
        found = compared(a_file(base), a_file(two))
        assert verdict in {case.worst.verdict for case in found.cases}
        assert outcome_of([found], strict=False, advisory=False).exit_code == 0


def test_other_devices_methods_and_cases_are_incomparable(seed):
    rng = np.random.default_rng(seed)
    base = a_file([a_record(noisy(rng, 0.004, 8))])
    other_device = a_file([a_record(noisy(rng, 0.008, 8))], fingerprint="f")
    assert only(compared(base, other_device)).verdict is Verdict.INCOMPARABLE
    larger = a_file([a_record([0.004] * 8, cost={"flops": 3e6})], fingerprint="f")
    assert only(compared(base, larger)).verdict is Verdict.WORSE
    cached = a_file([a_record([0.004] * 8, cost={"bytes_dram_expected": 9e6})], fingerprint="f")
    assert only(compared(base, cached)).verdict is Verdict.INCOMPARABLE  # another device has other caches
    for unknown in (a_file(base.cases, fingerprint=None), a_file(other_device.cases, fingerprint="")):
        assert only(compared(unknown, unknown)).verdict is Verdict.INCOMPARABLE
    for head in (a_file(base.cases, method_version=2), a_file([a_record([0.004] * 8, tokens=9)])):
        assert outcome_of([compared(base, head)], strict=False, advisory=False).exit_code == 4
    nothing = a_file([a_record([], status="oom")])
    assert outcome_of([compared(nothing, nothing)], strict=False, advisory=True).exit_code == 5
    assert outcome_of([compared(nothing, base)], strict=False, advisory=False).exit_code == 4
    assert outcome_of([compared(base, a_file([]))], strict=False, advisory=False).exit_code == 5


def test_advisory_timings_do_not_fail_but_are_said(seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, 1.2)
    found = compared(base, head, advisory="no baseline is set")
    assert only(found).verdict is Verdict.SLOW
    assert not found.regressions
    assert outcome_of([found], strict=False, advisory=False).exit_code == 0
    assert outcome_of([found], strict=True, advisory=False).exit_code == 3


def test_slow_must_be_slow_again(seed):
    rng = np.random.default_rng(seed)
    first = compared(*pair(rng, 1.1))
    again, not_again = compared(*pair(rng, 1.1)), compared(*pair(rng, 1.0, noise=0.004))
    assert only(confirmed(first, again)).verdict is Verdict.SLOW
    assert "confirmed" in only(confirmed(first, again)).reason
    lost = only(confirmed(first, not_again))
    assert lost.verdict is Verdict.INCONCLUSIVE
    assert "not confirmed" in lost.reason


def test_a_case_that_failed_once_gets_a_second_look(seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, 1.0, noise=0.004)
    broken = a_file([head.cases[0].model_copy(update={"status": "oom", "reason": "no memory"})], pair=side("head"))
    first, works = compared(base, broken), compared(base, head)
    assert only(first).verdict is Verdict.FAILED
    assert only(confirmed(first, first)).verdict is Verdict.FAILED
    assert only(confirmed(first, works)).verdict is Verdict.INCONCLUSIVE
    slow = compared(*pair(rng, 1.2))
    assert only(confirmed(slow, first)).verdict is Verdict.FAILED
    # a base that fails proves nothing of the head
    unclear = compared(a_file(broken.cases, pair=side("base")), head)
    assert outcome_of([unclear], strict=False, advisory=False).exit_code == 4


def test_a_base_that_fails_in_part_is_no_repair(seed):
    rng = np.random.default_rng(seed)
    rounds = noisy(rng, 0.004, 10)
    two = [a_record(rounds, arm="a"), a_record(rounds, arm="b")]
    partly = [two[0], two[1].model_copy(update={"status": "timeout", "reason": "no progress"})]
    found = compared(a_file(partly, pair=side("base")), a_file(two, pair=side("head")))
    assert found.cases[0].worst.verdict is Verdict.INCOMPARABLE
    assert outcome_of([found], strict=True, advisory=False).exit_code == 3


def test_what_was_not_asked_for_is_not_missing(seed):
    rng = np.random.default_rng(seed)
    rounds = noisy(rng, 0.004, 8)
    both = a_file([a_record(rounds, arm="a"), a_record(rounds, arm="b")])
    for partial in (a_file(both.cases[:1], only=["1"]), a_file(both.cases[:1], interrupted=True)):
        found = compared(both, partial)
        assert found.cases[0].worst.verdict is Verdict.INCOMPARABLE
        assert outcome_of([found], strict=False, advisory=False).exit_code == 0
    skipped = a_file([a_record([], arm="c", status="skipped"), *both.cases])
    assert len(compared(skipped, both).cases) == 2  # it was measured in neither


@pytest.mark.parametrize("spoil", [[], [0.0], [-1.0], [1e-300], [1e200], [1e-300, 1e200]])
def test_odd_samples_are_no_timings(spoil, seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, 1.0)
    for side_ in (base, head):
        side_.cases[0].rounds[3].samples_s = spoil
    found = compared(base, head)
    assert only(found).verdict in (Verdict.SAME, Verdict.INCONCLUSIVE)
    assert found.cases[0].metrics[0].estimate.rounds == 9


def test_the_suite_sees_what_no_case_shows(seed):
    rng = np.random.default_rng(seed)
    arms = [f"arm{i}" for i in range(16)]
    base = a_file([a_record(noisy(rng, 0.004, 10, 0.004), arm=arm) for arm in arms], pair=side("base"))
    head = a_file([a_record(noisy(rng, 0.004 * 1.02, 10, 0.004), arm=arm) for arm in arms], pair=side("head"))
    found = compared(base, head)
    assert not found.regressions
    assert found.suite.verdict is Verdict.SLOW
    assert outcome_of([found], strict=False, advisory=False).exit_code == 1


def write(tmp_path, text):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    return str(path)


def test_thresholds_by_metric_and_case(tmp_path, seed):
    rng = np.random.default_rng(seed)
    base, head = pair(rng, 1.06, noise=0.004)
    assert only(compared(base, head)).verdict is Verdict.SLOW
    path = write(tmp_path, "cases: [{arm: den*, mode: forward, metrics: {latency_ms_p50: {margin: 0.2}}}]")
    loose = load_thresholds(path)
    assert only(compared(base, head, loose)).verdict is Verdict.SAME
    other = load_thresholds(write(tmp_path, "cases: [{arm: moe, metrics: {latency_ms_p50: {margin: 0.2}}}]"))
    assert only(compared(base, head, other)).verdict is Verdict.SLOW
    limit = load_thresholds(write(tmp_path, "metrics: {latency_ms_p50: {limit: 0.001}}"))
    assert only(compared(base, head, limit)).verdict is Verdict.WORSE
    new = a_file([a_record([0.004], tokens=9), *base.cases])
    assert {c.worst.verdict for c in compared(base, new, limit).cases} == {Verdict.WORSE}
    tail = load_thresholds(write(tmp_path, "metrics: {latency_ms_p90: {limit: 0.001}}"))
    long = a_file([a_record([0.004] * 8, samples=20)])
    assert only(compared(long, long, tail)).metric == "latency_ms_p90"
    floor = load_thresholds(write(tmp_path, "metrics: {latency_ms_p50: {floor: 10}}"))
    assert only(compared(base, head, floor)).verdict is Verdict.SAME
    noisy_machine = load_thresholds(write(tmp_path, "metrics: {latency_ms_p50: {noise_floor: 0.07}}"))
    assert only(compared(base, head, noisy_machine)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metrics: {latency_ms: {margin: 0.1}}", "did you mean 'latency_ms_"),
        ("metrics: {latency_ms_p50: {margin: -1}}", "margin"),
        ("metrics: {latency_ms_p50: {tolerance: 0.1}}", "it has a margin"),
        ("metrics: {flops: {margin: 0.1}}", "it has a tolerance"),
        ("metrics: {latency_ms_p50: {marign: 0.1}}", "did you mean 'margin'"),
        ("cases: [{mode: fwd, metrics: {}}]", "cases[0].mode"),
        ("schema_version: 2", "2 is not supported"),
        ("- 1", "should hold keys"),
        ("", "is empty"),
    ],
)
def test_bad_thresholds_say_what_would_be_right(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_thresholds(path)
    assert said in str(caught.value)
    assert path in str(caught.value)


def test_everything_is_strict_json(seed):
    from membench.gate.as_json import comparison_json

    rng = np.random.default_rng(seed)
    found = compared(*pair(rng, 1.1))
    content = comparison_json([found], [], outcome_of([found], strict=False, advisory=False))
    json.dumps(content, allow_nan=False)
    assert content["comparisons"][0]["cases"][0]["metrics"][0]["rounds"] == 10
