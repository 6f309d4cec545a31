"""Intervals over rounds: how often they hold what they say, where there is none, and quantiles as printed tables."""

import math
import random

import pytest
from test_records import a_case, a_round

from membench.results.intervals import latency_interval_ms, medians_s, pooled_spread
from membench.results.metrics import metrics_of, step_interval
from membench.results.quantiles import student_t, studentized_range

TRUE_S = 0.010
SEED = 20261128


def rounds_of(seconds):
    return [a_round(number, samples=[each]) for number, each in enumerate(seconds)]


# Harter, "Tables of range and studentized range", Annals of Mathematical Statistics 31 (1960), at 95 %
@pytest.mark.parametrize(
    ("means", "degrees", "printed"), [(2, 2, 6.085), (3, 10, 3.877), (5, 20, 4.232), (10, 30, 4.824)]
)
def test_the_studentized_range_is_the_printed_one(means, degrees, printed):
    assert studentized_range(means, degrees) == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize(("degrees", "printed"), [(2, 4.303), (3, 3.182), (7, 2.365), (19, 2.093)])
def test_students_t_is_the_printed_one(degrees, printed):
    assert student_t(degrees) == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize("rounds", [3, 5, 8])
@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_an_interval_holds_the_truth_as_often_as_it_says(rounds, drift):
    """Cases of unequal noise; what the machine does to a round it does to all of its cases."""
    rng, held, drawn = random.Random(SEED), 0, 0
    spreads = [0.01, 0.02, 0.02, 0.04, 0.08]
    for _ in range(300):
        of_round = [rng.gauss(0, drift) for _ in range(rounds)]
        cases = [rounds_of(TRUE_S * math.exp(rng.gauss(0, s) + d) for d in of_round) for s in spreads]
        pooled = pooled_spread(cases)
        for case in cases:
            low, high = latency_interval_ms(case, pooled)
            held, drawn = held + (low <= 1e3 * TRUE_S <= high), drawn + 1
    assert held / drawn > 0.94


def test_without_the_run_s_spread_a_quiet_case_has_no_narrow_interval_by_luck():
    lucky = rounds_of([0.0100, 0.0100, 0.0100001])
    noisy = rounds_of([0.010, 0.012, 0.008])
    alone, beside = latency_interval_ms(lucky, None), latency_interval_ms(lucky, pooled_spread([lucky, noisy]))
    assert beside[0] < alone[0] < alone[1] < beside[1]
    assert beside[1] / beside[0] > 1.5


def test_the_pooled_spread_is_a_root_mean_square_over_cases():
    logs = [[0.0, 0.1, 0.2], [0.0, 0.3, 0.6]]
    cases = [rounds_of(TRUE_S * math.exp(each) for each in case) for case in logs]
    assert pooled_spread(cases) == pytest.approx(math.sqrt((0.1**2 + 0.3**2) / 2))
    assert pooled_spread([*cases, rounds_of([1.0, 5.0])]) == pooled_spread(cases)  # two rounds tell no spread
    assert pooled_spread([rounds_of([1.0])]) is None


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_fewer_than_three_rounds_have_no_interval(rounds):
    assert latency_interval_ms(rounds_of([0.01] * rounds), 0.1) is None
    assert step_interval(rounds_of([0.01] * rounds), 0.0, 0.1) == {"step_ms_low": None, "step_ms_high": None}


def test_by_hand():
    seconds = [0.010 * math.exp(each) for each in (-0.1, 0.0, 0.1)]
    half_width = 4.302653 * 0.1 / math.sqrt(3)
    wanted = [10 * math.exp(-half_width), 10 * math.exp(half_width)]
    assert latency_interval_ms(rounds_of(seconds), 0.02) == pytest.approx(wanted, rel=1e-6)


def test_the_figure_lies_in_its_interval():
    seconds = [0.010] * 60 + [1.0] * 61  # the mean of the logarithms is far from their median
    low, high = latency_interval_ms(rounds_of(seconds), None)
    assert low < 1000 <= high * (1 + 1e-12)


def test_rounds_that_failed_or_measured_nothing_do_not_count():
    rounds = rounds_of([0.01, 0.01, 0.01, 0.0, 1e300, -1.0])
    rounds.append(a_round(9, samples=[0.01], status="error"))
    assert list(medians_s(rounds)) == [0, 1, 2]


def test_communication_moves_the_interval_and_does_not_widen_it():
    rounds = rounds_of([0.010, 0.011, 0.012])
    bare, moved = step_interval(rounds, 0.0, None), step_interval(rounds, 5.0, None)
    assert moved["step_ms_low"] == pytest.approx(bare["step_ms_low"] + 5)
    assert moved["step_ms_high"] == pytest.approx(bare["step_ms_high"] + 5)
    assert step_interval(rounds, None, None) == {"step_ms_low": None, "step_ms_high": None}


def test_a_case_s_metrics_have_the_interval_and_the_floor():
    rounds = [a_round(number, samples=[s]) for number, s in enumerate((0.009, 0.010, 0.012))]
    found = metrics_of(a_case(), rounds, communication_ms=2.0, run_spread=0.2)
    assert found["step_ms_low"] < 12 < found["step_ms_high"]
    assert found["step_ms_high"] - 2 > metrics_of(a_case(), rounds, communication_ms=0.0)["step_ms_high"]
    # 2 MFLOP at 1 GFLOP/s are 2 ms; 2 MB streamed at 2 GB/s and 1 MB of rows at 0.5 GB/s are 3 ms
    assert found["floor_ms"] == pytest.approx(3)
    assert found["over_floor"] == pytest.approx(10 / 3)


def test_a_floor_is_that_of_each_round_s_own_ceilings():
    fast = {"copy_bytes_per_s": 4e9, "random_row_bytes_per_s": 1e9, "matmul_flops_per_s": 1e9}
    rounds = [a_round(0, samples=[0.006]), a_round(1, samples=[0.006]), a_round(2, samples=[0.006], ceilings=fast)]
    found = metrics_of(a_case(), rounds, communication_ms=0.0)
    assert found["floor_ms"] == pytest.approx(3)
    assert found["over_floor"] == pytest.approx(2)
    rounds[0] = rounds[0].model_copy(update={"ceilings": fast})
    assert metrics_of(a_case(), rounds, communication_ms=0.0)["over_floor"] == pytest.approx(3)


@pytest.mark.parametrize("lost", ["matmul_flops_per_s", "random_row_bytes_per_s"])
def test_no_floor_where_a_ceiling_is_unknown(lost):
    bare = a_round(0)
    bare.ceilings = {**bare.ceilings, lost: None}
    found = metrics_of(a_case(), [bare], communication_ms=0.0)
    assert found["floor_ms"] is None
    assert found["over_floor"] is None
