"""Cases that share their spread: the interval covers, a round out of line is borne, few cases share nothing."""

import math

import numpy as np
import pytest
import scipy.stats

from membench.gate.shared_spread import FEWEST_CASES, FEWEST_ROUNDS, TrimmedSide, shared_spread
from membench.gate.statistics import unpaired

CASES = 15
ROUNDS = 6


def sides(rng, sigmas, effect=0.0, rounds=ROUNDS):
    """Both sides of each case, whose rounds' logs have these standard deviations."""
    return {
        f"case {number}": (
            np.exp(sigma * rng.standard_normal(rounds)).tolist(),
            np.exp(effect + sigma * rng.standard_normal(rounds)).tolist(),
        )
        for number, sigma in enumerate(sigmas)
    }


def spreads(rng, freedom=6.0):
    """Standard deviations around 0.025 whose squares are as the method supposes: scaled inverse chi-squares."""
    return 0.025 * np.sqrt(freedom / rng.chisquare(freedom, CASES))


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_interval_holds_the_truth_as_often_as_it_says(confidence, seed):
    rng = np.random.default_rng(seed)
    runs, missed = 150, 0
    for _ in range(runs):
        found = shared_spread(sides(rng, spreads(rng), 0.02), confidence)
        missed += sum(not each.low <= 0.02 <= each.high for each in found.values())
    assert missed <= scipy.stats.binom.ppf(0.9999, runs * CASES, 1.3 * (1 - confidence))


def test_cases_of_one_spread_are_decided_by_it_alone(seed):
    """As many degrees of freedom as there are: the interval is the normal's."""
    rng = np.random.default_rng(seed)
    found = shared_spread(sides(rng, [0.02] * CASES))
    halves = sorted((each.high - each.low) / 2 for each in found.values())
    assert halves[-1] / halves[0] < 3
    assert halves[CASES // 2] == pytest.approx(2.576 * 0.02 * math.sqrt(2 / 4), rel=0.5)


def test_a_round_out_of_line_does_not_hide_a_slowdown(seed):
    rng = np.random.default_rng(seed)
    cases = sides(rng, [0.02] * CASES, 0.1)
    for base, _ in cases.values():
        base[3] *= 1.2
    found = shared_spread(cases)
    slow = [each for each in found.values() if each.low > 0]
    by_ranks = [name for name, both in cases.items() if unpaired(*both).low > 0]
    assert len(slow) >= 13 > len(by_ranks)


def test_one_slower_case_is_told_from_the_others(seed):
    rng = np.random.default_rng(seed)
    cases = sides(rng, [0.015] * CASES)
    base, head = cases["case 7"]
    cases["case 7"] = base, [1.15 * each for each in head]
    found = shared_spread(cases)
    assert found["case 7"].low > 0.03
    assert found["case 7"].p < 0.001
    assert sum(each.low > 0 or each.high < 0 for each in found.values()) <= 3


def test_few_cases_or_rounds_share_nothing(seed):
    rng = np.random.default_rng(seed)
    assert shared_spread({}) == {}
    assert shared_spread(sides(rng, [0.02] * (FEWEST_CASES - 1))) == {}
    assert shared_spread(sides(rng, [0.02] * CASES, rounds=FEWEST_ROUNDS - 1)) == {}
    cases = sides(rng, [0.02] * CASES)
    cases["short"] = ([1.0] * ROUNDS, [1.0] * (FEWEST_ROUNDS - 1))
    assert cases.keys() - shared_spread(cases).keys() == {"short"}


def test_rounds_that_are_all_equal_are_no_division_by_zero():
    found = shared_spread({f"case {number}": ([1.0] * ROUNDS, [1.1] * ROUNDS) for number in range(CASES)})
    assert all(each.effect == pytest.approx(math.log(1.1)) and each.low > 0.09 for each in found.values())


def test_the_trimmed_mean_and_its_error_are_yuens(seed):
    rng = np.random.default_rng(seed)
    base, head = rng.standard_normal(12), 0.5 + 3 * rng.standard_normal(12)
    before, now = (TrimmedSide.of(np.exp(side)) for side in (base, head))
    theirs = scipy.stats.ttest_ind(head, base, equal_var=False, trim=2 / 12)
    error = math.sqrt(before.variance / before.kept + now.variance / now.kept)
    assert before.kept == now.kept == 8
    assert (now.mean - before.mean) / error == pytest.approx(theirs.statistic)
