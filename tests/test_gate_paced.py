"""Two stored runs with a pacer: drift is not a slowdown, a slowdown is one, and what else must agree."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from gate_results import ENVIRONMENT, a_file, a_record, noisy
from test_gate import compared, only

from membench.gate.outcome import NOTHING_COMPARABLE, outcome_of
from membench.gate.pacing import ratios_by_round
from membench.gate.shared_spread import METHOD
from membench.gate.verdicts import Verdict
from membench.tables.gate import comparison_tables

AMOUNTS = {"dtype": "float32", "products": 3}
PACER_S = 0.003


def paced_run(rng, mean_s, drift, *, rounds=8, noise=0.005, version=1, amounts=AMOUNTS, torch="2.13.0"):
    """A run whose rounds were slowed by e^drift, sample and pacer alike."""
    levels = np.exp(np.broadcast_to(drift, rounds))
    record = a_record([s * level for s, level in zip(noisy(rng, mean_s, rounds, noise), levels, strict=True)])
    with_pacer = [
        r.model_copy(
            update={
                "pacer": {
                    "version": version,
                    "amounts": amounts,
                    "calls_per_sample": 1,
                    "samples_s": [PACER_S * level] * len(r.samples_s),
                }
            }
        )
        for r, level in zip(record.rounds, levels, strict=True)
    ]
    made = a_file([record.model_copy(update={"rounds": with_pacer})])
    return made.model_copy(update={"environment": {**ENVIRONMENT, "packages": {"torch": torch}}})


def unpaced(run):
    rounds = [r.model_copy(update={"pacer": {}}) for r in run.cases[0].rounds]
    return run.model_copy(update={"cases": [run.cases[0].model_copy(update={"rounds": rounds})]})


def drifts(rng, rounds=8):
    return 0.2 * rng.standard_normal() + 0.1 * rng.standard_normal(rounds)


def test_drift_that_hits_sample_and_pacer_alike_is_the_same(seed):
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.4)
    found = only(compared(base, head))
    assert found.verdict is Verdict.SAME
    assert found.change == pytest.approx(0, abs=0.02)
    assert "ratios to the pacer" in found.estimate.method
    assert found.head / found.base == pytest.approx(math.exp(0.4), rel=0.05)  # shown are milliseconds
    assert only(compared(unpaced(base), unpaced(head))).verdict is Verdict.SLOW  # as milliseconds say


@pytest.mark.parametrize(("ratio", "verdict"), [(1.1, Verdict.SLOW), (1 / 1.1, Verdict.FAST)])
def test_a_slowdown_is_found_through_drift(ratio, verdict, seed):
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, drifts(rng)), paced_run(rng, 0.004 * ratio, drifts(rng))
    found = only(compared(base, head))
    assert found.verdict is verdict
    assert found.change == pytest.approx(ratio - 1, abs=0.02)


def test_a_slowdown_counts_though_the_ceilings_fell_too(seed):
    """The ratio has what the machine did already; in milliseconds it would have to be subtracted."""
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.0044, 0.2)
    slow = [
        r.model_copy(update={"ceilings": {k: 0.75 * v for k, v in r.ceilings.items()}}) for r in head.cases[0].rounds
    ]
    head = head.model_copy(update={"cases": [head.cases[0].model_copy(update={"rounds": slow})]})
    assert only(compared(base, head)).verdict is Verdict.SLOW
    assert only(compared(unpaced(base), unpaced(head))).verdict is Verdict.INCONCLUSIVE


def test_a_slowdown_is_found_where_the_machine_became_faster_by_as_much(seed):
    """Medians of both runs are equal; the margin's floor is held against the effect, not against their difference."""
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0, noise=0.0), paced_run(rng, 0.0044, -math.log(1.1), noise=0.0)
    assert only(compared(base, head)).verdict is Verdict.SLOW


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"version": 2}, "not the same work"),
        ({"amounts": {**AMOUNTS, "products": 4}}, "not the same work"),
        ({"torch": "2.14.0"}, "torch 2.13.0 and 2.14.0"),
    ],
)
def test_pacers_that_differ_leave_milliseconds_and_it_is_said(other, why, seed):
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.4, **other)
    found = only(compared(base, head))
    assert found.verdict is Verdict.SLOW
    assert found.reason.startswith("milliseconds: ")
    assert why in found.reason
    assert "ratio" not in found.estimate.method


@pytest.mark.parametrize("which", ["baseline", "new file"])
def test_a_run_with_a_pacer_and_one_without_do_not_compare(which, seed):
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.0)
    pair = (base, unpaced(head)) if which == "baseline" else (unpaced(base), head)
    found = compared(*pair)
    assert only(found).verdict is Verdict.INCOMPARABLE
    assert f"only the {which} was timed in turn with a pacer" in only(found).reason
    assert outcome_of([found], strict=False, advisory=False).exit_code == NOTHING_COMPARABLE


def test_the_table_says_that_ratios_were_compared(seed):
    rng = np.random.default_rng(seed)
    found = compared(paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.0), tmp=Path("x"))
    caption = comparison_tables(found)[0].caption
    assert "ratios to the pacer" in caption
    assert "need not be the ratio of the two medians" in caption


def test_a_round_is_the_median_over_neighbours(seed):
    """A burst that hits some samples and the pacer's beside them leaves the round's ratio."""
    record = paced_run(np.random.default_rng(seed), 0.006, 0.0, rounds=1).cases[0]
    burst = [1, 1, 5, 5, 5, 1, 1, 1, 1]
    samples = {"samples_s": [0.006 * b for b in burst]}
    pacer = {**record.rounds[0].pacer, "samples_s": [PACER_S * b for b in burst]}
    hit = record.rounds[0].model_copy(update={**samples, "pacer": pacer})
    assert ratios_by_round(record.model_copy(update={"rounds": [hit]}))[0] == pytest.approx(2)


def test_times_on_the_core_and_times_that_hold_more_do_not_mix(seed):
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.0)
    on_core = {"on_core_s": [PACER_S] * 5, "case_on_core_s": [0.004] * 5}
    rounds = [r.model_copy(update={"pacer": {**r.pacer, **on_core}}) for r in head.cases[0].rounds]
    head = head.model_copy(update={"cases": [head.cases[0].model_copy(update={"rounds": rounds})]})
    assert "timed alike" in only(compared(base, head)).reason
    assert only(compared(head, head)).verdict is Verdict.SAME
    assert "ratios" in only(compared(head, head)).estimate.method


def test_cases_of_runs_with_a_pacer_share_their_spread(seed):
    """One round of each case is out of line, which would leave six rounds undecided by their ranks."""
    rng = np.random.default_rng(seed)
    runs = []
    for ratio in (1.0, 1.1):
        cases = []
        for number in range(6):
            record = paced_run(rng, 0.004 * ratio, drifts(rng, 6), rounds=6, noise=0.01).cases[0]
            odd = record.rounds[number]
            odd = odd.model_copy(update={"samples_s": [(1.2 if ratio == 1 else 0.9) * s for s in odd.samples_s]})
            rounds = [odd if r.number == odd.number else r for r in record.rounds]
            case = record.case.model_copy(update={"tokens": number + 1})
            cases.append(record.model_copy(update={"id": case.id, "case": case, "rounds": rounds}))
        made = paced_run(rng, 0.004, 0.0)
        runs.append(made.model_copy(update={"cases": cases}))
    found = [each.metrics[0] for each in compared(*runs).cases]
    assert {each.verdict for each in found} == {Verdict.SLOW}
    assert {each.estimate.method for each in found} == {f"{METHOD}, of the ratios to the pacer"}
    first = compared(*(run.model_copy(update={"cases": run.cases[:1]}) for run in runs))
    assert only(first).verdict is Verdict.INCONCLUSIVE
    assert "Mann" in only(first).estimate.method


def test_time_that_others_had_the_core_is_not_compared(seed):
    """Half of the samples were put off the core, and none of the pacer's beside them."""
    record = paced_run(np.random.default_rng(seed), 0.006, 0.0, rounds=1).cases[0]
    put_off = {"samples_s": [0.006, 0.014, 0.015, 0.006, 0.015]}
    on_core = {"case_on_core_s": [0.006] * 5, "on_core_s": [PACER_S] * 5}
    hit = record.rounds[0].model_copy(update={**put_off, "pacer": {**record.rounds[0].pacer, **on_core}})
    assert ratios_by_round(record.model_copy(update={"rounds": [hit]}))[0] == pytest.approx(2)


@pytest.mark.parametrize("samples_s", [[], [0.0], "0.003", [None], [True], [1e300]])
def test_what_is_no_time_of_a_pacer_is_none(samples_s, seed):
    """A damaged file is compared as if that round had no pacer, and raises nothing."""
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.0)
    damaged = [r.model_copy(update={"pacer": {**r.pacer, "samples_s": samples_s}}) for r in head.cases[0].rounds]
    head = head.model_copy(update={"cases": [head.cases[0].model_copy(update={"rounds": damaged})]})
    assert only(compared(base, head)).verdict is Verdict.INCOMPARABLE


def test_runs_of_one_commit_are_rarely_slow_and_slower_ones_nearly_always(seed):
    """Simulated: drift of a quarter, and what the pacer does not track, 2.5 % a round and 1 % a run."""
    rng = np.random.default_rng(seed)
    trials, slow = 300, {1.0: 0, 1.1: 0}
    for ratio in slow:
        for _ in range(trials):
            untracked = np.exp(0.01 * rng.standard_normal(2))
            base = paced_run(rng, 0.004 * untracked[0], drifts(rng), noise=0.025)
            head = paced_run(rng, 0.004 * ratio * untracked[1], drifts(rng), noise=0.025)
            slow[ratio] += only(compared(base, head)).verdict is Verdict.SLOW
    assert slow[1.0] <= scipy.stats.binom.ppf(0.9999, trials, 0.01)
    assert slow[1.1] >= 0.9 * trials


@pytest.mark.parametrize("name", ["samples_s", "on_core_s", "case_on_core_s"])
def test_a_pacer_of_another_length_belongs_to_no_samples(name, seed):
    run = paced_run(np.random.default_rng(seed), 0.004, 0.0)
    rounds = run.cases[0].rounds
    known = {"on_core_s": [PACER_S] * 5, "case_on_core_s": [0.5 * s for s in rounds[0].samples_s]}
    whole, cut = (
        rounds[0].model_copy(update={"pacer": {**rounds[0].pacer, **known, **change}})
        for change in ({}, {name: [1e-3] * 4})
    )
    ratios = [ratios_by_round(run.cases[0].model_copy(update={"rounds": [each]})) for each in (rounds[0], whole, cut)]
    assert ratios[2] == ({} if name == "samples_s" else ratios[0]) != ratios[1]


def test_a_side_whose_pacer_is_of_no_use_is_named(seed):
    rng = np.random.default_rng(seed)
    base, head = paced_run(rng, 0.004, 0.0), paced_run(rng, 0.004, 0.0)
    for r in head.cases[0].rounds:
        r.pacer["samples_s"] = r.pacer["samples_s"][:2]
    assert "the new file's pacer has not one time for each sample" in only(compared(base, head)).reason
    assert "the baseline's pacer has not one time for each sample" in only(compared(head, base)).reason
    assert "only the baseline was timed in turn" in only(compared(base, unpaced(head))).reason
