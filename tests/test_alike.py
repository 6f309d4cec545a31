"""Only runs of one thing are held against each other; what is not names its file."""

from pathlib import Path

import pytest
from test_documents import DEVICE
from test_repeatability import QUIET, a_file, scaled

from benchmarks.alike import check_alike
from membench.errors import UsageError
from membench.gate.result_set import LoadedResult


def refused(*runs):
    """What is said of runs in files a.json, b.json …"""
    with pytest.raises(UsageError) as found:
        check_alike([LoadedResult(Path(f"{name}.json"), run) for name, run in zip("abc", runs, strict=False)])
    return str(found.value)


def another(**changes):
    return a_file(scaled({"a": 1.1}), **changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scenario": "y"}, "several scenarios (x, y)"),
        ({"git_sha": "1"}, "several commits (1, None)"),
        ({"overrides": ["measure.rounds=4"]}, "several overrides"),
        ({"method_version": 2}, "several versions of the method (1, 2)"),
        ({"only": ["1a"]}, "several choices of cases"),
        ({"interrupted": True}, "b.json: is an interrupted run"),
        ({"started": "soon"}, "b.json: run.started: 'soon' is no time"),
    ],
)
def test_only_runs_of_one_thing_are_compared(change, words):
    check_alike([LoadedResult(Path("a.json"), a_file(QUIET)), LoadedResult(Path("b.json"), another())])
    assert words in refused(a_file(QUIET), another(**change))


def test_one_run_is_none_to_compare_even_where_it_is_named_twice():
    assert "there is 1" in refused(a_file(QUIET))
    assert refused(a_file(QUIET), another(), a_file(QUIET)).startswith("a.json: is the same run as c.json")


def test_runs_of_several_machines_are_not_compared():
    larger = another().model_copy(update={"environment": {"device": {**DEVICE["device"], "cores": 64}}})
    assert "several machines (cores 2 and 64)" in refused(a_file(QUIET), larger)
