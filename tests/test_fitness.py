"""What a machine is fit for: the thresholds, the reasons, and what binds whatever is measured."""

import pytest

from membench.cli.doctor import _disturbance, _verdict
from membench.measuring.fitness import fitness

QUIET = {"iqr_over_median": 0.02, "second_half_over_first": 0.99, "max_over_median": 9.0}
CALM = {"disturbed_share": 0.05, "shares": {"throttled": {"mean": 0.0, "largest": 0.0}, "waiting": None}}
HERE = {"cores": 4, "threads": 4, "cpu_quota_cores": None, "fallback": None, "settings": {}}


def test_a_quiet_machine_is_fit():
    assert fitness(QUIET, CALM, HERE) == {"fit": "fit", "why": [], "limits": []}


@pytest.mark.parametrize(
    ("noise", "seen", "fit", "why"),
    [
        ({}, {"disturbed_share": 0.3}, "fit for ab only", "30 % of the samples were disturbed, over 10 %"),
        ({}, {"disturbed_share": 0.51}, "unfit", "51 % of the samples were disturbed, over 50 %"),
        ({"iqr_over_median": 0.06}, {}, "fit for ab only", "spreads over 6.0 % of their median, over 5 %"),
        ({"iqr_over_median": 0.26}, {}, "unfit", "spreads over 26.0 % of their median, over 25 %"),
        ({"second_half_over_first": 0.96}, {}, "fit for ab only", "drifted by 4.0 %, over 3 %"),
        ({"second_half_over_first": 1.2}, {}, "unfit", "drifted by 20.0 %, over 10 %"),
        ({}, {"shares": {"throttled": {"mean": 0.4}}}, "unfit", "a CPU quota kept it from running for 40 %"),
        ({}, {"disturbed_share": 0.1}, "fit", None),
    ],
)
def test_each_threshold(noise, seen, fit, why):
    found = fitness({**QUIET, **noise}, {**CALM, **seen}, HERE)
    assert found["fit"] == fit
    assert len(found["why"]) == (why is not None)
    assert why is None or why in found["why"][0]


def test_the_worst_decides_and_is_told_first():
    found = fitness({**QUIET, "second_half_over_first": 1.5}, {**CALM, "disturbed_share": 0.2}, HERE)
    assert found["fit"] == "unfit"
    assert ["drifted" in why for why in found["why"]] == [True, False]


def test_what_is_unknown_takes_nothing():
    assert fitness({}, {"shares": {}}, {})["fit"] == "fit"


@pytest.mark.parametrize(
    ("here", "limits"),
    [
        ({"cpu_quota_cores": 1.5, "threads": 1}, ["a CPU quota of 1.5 of 4 cores", "1 thread for 4 cores"]),
        ({"cpu_quota_cores": 8.0}, []),
        ({"fallback": "g++: not found"}, ["memory layers run on torch's path: g++: not found"]),
        ({"settings": {"onednn": "off"}}, ["onednn is off"]),
    ],
)
def test_the_limits_that_bind(here, limits):
    assert fitness(QUIET, CALM, {**HERE, **here})["limits"] == limits


def test_doctor_shows_the_verdict():
    table = _verdict(fitness({**QUIET, "iqr_over_median": 0.5}, CALM, HERE))
    assert table.title == "Verdict: unfit"
    assert [row[0] for row in table.rows] == ["means", "why"]
    shares = {"waiting": {"mean": 0.25, "largest": 0.5}, "hypervisor": None}
    known = {"seconds": 4.0, "limit": 0.05, "disturbed_share": 0.5, "involuntary_switches_per_sample": None}
    rows = _disturbance({**known, "shares": shares}).rows
    assert rows[:2] == [
        ["its slowest thread waited for a processor", "25.0 %", "50.0 %"],
        ["stolen by the hypervisor", "-", "-"],
    ]
