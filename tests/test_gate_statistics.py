"""The gate's estimates: exact distributions against scipy, coverage and error rates on made-up noise."""

import math

import numpy as np
import pytest
import scipy.stats

from membench.gate.statistics import (
    bootstrap_interval,
    fewest_paired_rounds,
    paired,
    rank_sum_counts,
    signed_rank_counts,
    unpaired,
)


@pytest.mark.parametrize("rounds", [5, 8, 10, 13, 20])
def test_signed_rank_p_is_scipys(rounds, seed):
    rng = np.random.default_rng(seed)
    for shift in (0, 0.5, 2):
        d = rng.normal(shift, 1, rounds)
        assert paired(d).p == pytest.approx(scipy.stats.wilcoxon(d, method="exact").pvalue)
    assert sum(signed_rank_counts(rounds)) == 2**rounds


@pytest.mark.parametrize(("m", "n"), [(3, 3), (8, 8), (5, 12), (12, 5)])
def test_rank_sum_p_is_scipys(m, n, seed):
    rng = np.random.default_rng(seed)
    for shift in (0, 0.5, 2):
        a, b = rng.normal(0, 1, m), rng.normal(shift, 1, n)
        found = unpaired(np.exp(a), np.exp(b)).p
        assert found == pytest.approx(scipy.stats.mannwhitneyu(a, b, method="exact").pvalue)
    assert sum(rank_sum_counts(m, n)) == math.comb(m + n, m)


def test_estimates_are_the_medians_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    d = rng.normal(0, 1, 9)
    walsh = [(d[i] + d[j]) / 2 for i in range(9) for j in range(i, 9)]
    assert paired(d).effect == pytest.approx(np.median(walsh))
    a, b = rng.uniform(1, 2, 6), rng.uniform(1, 2, 7)
    assert unpaired(a, b).effect == pytest.approx(np.median([math.log(y / x) for x in a for y in b]))


@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_intervals_cover_at_least_as_often_as_they_say(draw, seed):
    rng = np.random.default_rng(seed)
    missed_paired = missed_unpaired = 0
    trials = 1500
    for _ in range(trials):
        noise = rng.standard_normal((2, 10)) if draw == "normal" else rng.exponential(1, (2, 10))
        one = paired(noise[0] - noise[1])
        two = unpaired(np.exp(noise[0]), np.exp(noise[1]))
        missed_paired += not one.low <= 0 <= one.high
        missed_unpaired += not two.low <= 0 <= two.high
    limit = scipy.stats.binom.ppf(0.9999, trials, 0.01)
    assert missed_paired <= limit
    assert missed_unpaired <= limit


def test_too_few_rounds_give_no_interval():
    assert fewest_paired_rounds() == 8
    assert paired([0.1] * 7).low is None
    assert paired([0.1 + 0.01 * i for i in range(8)]).low == pytest.approx(0.1)
    assert unpaired([1, 1.1, 1.2, 1.3], [2, 2.1, 2.2, 2.3]).low is None
    assert unpaired([1, 1.1, 1.2, 1.3, 1.4], [2, 2.1, 2.2, 2.3, 2.4]).low > 0


def test_equal_rounds_are_no_effect():
    found = paired([0.0] * 10)
    assert (found.effect, found.low, found.high) == (0, 0, 0)
    assert found.p == 1
    assert unpaired([1.0] * 8, [1.0] * 8).p == 1


def test_bootstrap_is_the_same_twice_and_holds_the_truth(seed):
    rng = np.random.default_rng(seed)
    base, head = np.exp(rng.normal(0, 0.01, 10)), np.exp(rng.normal(0.1, 0.01, 10))
    low, high = bootstrap_interval(base, head)
    assert (low, high) == bootstrap_interval(base, head)
    assert low < 0.1 < high
    assert high - low < 0.06
