"""Training curves: a line is the mean over seeds, a band its interval; and the page that shows them."""

import pytest
from training_cases import learnt, record_of

from membench.report.evidence import Evidence
from membench.report.page import page, run_views
from membench.report.palette import arm_styles
from membench.report.plots.curves import LEARNT, SPENT, curve_figures, curve_of
from membench.results.learnt import interval

SEEDS = {"dense": [3.0, 3.2, 3.1], "memory": [2.0, 2.21, 2.09]}


def evidence(result, arm):
    return Evidence.of(record_of(result, arm), arm_styles(result.cases))


def test_a_curve_is_the_mean_of_its_seeds_with_their_interval():
    nll, tokens = LEARNT[0], SPENT[0]
    curve = curve_of(evidence(learnt(SEEDS), "dense"), nll, tokens)
    assert curve is not None
    assert curve.x == [64, 320, 640]
    assert curve.y == pytest.approx([3.1 + 0.9, 3.1 + 0.1, 3.1])
    low, high = interval([3.0, 3.2, 3.1])
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((low, high))


def test_a_curve_ends_with_its_shortest_seed():
    result = learnt(SEEDS)
    record = record_of(result, "dense")
    record.rounds[1].curve.pop()
    curve = curve_of(Evidence.of(record, arm_styles(result.cases)), LEARNT[0], SPENT[0])
    assert curve is not None and len(curve.x) == 2


def test_what_nobody_knows_has_no_plot():
    result = learnt(SEEDS)
    figures = curve_figures([evidence(result, arm) for arm in SEEDS])
    assert len(figures) == 3 * 3, "nll, loss and exact match over tokens, FLOPs and seconds; no F1"
    first = next(iter(figures.values()))
    assert [trace.get("fill") for trace in first["data"]] == ["toself", "toself", None, None]
    assert {note["text"] for note in first["layout"]["annotations"]} == {"dense", "memory"}


def test_the_page_has_the_answer_the_arms_and_the_curves():
    html = page(run_views([("a.json", learnt(SEEDS))]))
    assert "Training curves" in html and "lowest answer NLL" in html and "Differences of arms" in html
    assert "What the inputs touched" not in html
    assert "answer NLL over tokens trained" in html


def test_arms_look_like_the_layer_that_they_compare():
    styles = arm_styles(learnt(SEEDS).cases)
    assert styles["memory"].colour == "#0072b2" and styles["dense"].colour == "#33383f"
