"""Every column that users see is one of the registry's: in tables, on the page, in CSV and in the gate."""

import ast

import pytest
from house import ROOT, modules
from test_results_table import a_record

from membench.gate.metrics import LEARNT, METRIC_NAMES
from membench.results.columns import COUNTS, METRICS, QUANTITIES, SHOWN
from membench.results.metrics import metrics_of
from membench.tables.quantity import quantity

# What else a text may say that is spelled as a heading or an axis is: units, and words that are names in records too.
_NO_HEADING = {"FLOP/s", "GB/s", "GFLOP/s", "vs", *QUANTITIES}
SPELLED = {words for each in QUANTITIES.values() for words in (each.heading, each.axis)} - _NO_HEADING - {""}


def spelled(path):
    """(line, text) of each text of a file that is a heading or an axis of the registry, but for docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in SPELLED:
            yield node.lineno, node.value


SHOWING = [path for folder in ("tables", "report", "cli") for path in modules(f"membench/{folder}")]


@pytest.mark.parametrize("path", SHOWING, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_quantity_is_spelled_in_the_registry_alone(path):
    assert not list(spelled(path)), "take the heading or the axis from membench/results/columns.py"


def test_that_test_finds_what_is_spelled_elsewhere(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('Column("step ms", mine)\nColumn("why")\nplot(x, title="stored, GB")\n')
    assert list(spelled(file)) == [(1, "step ms"), (3, "stored, GB")]


def test_every_metric_of_a_record_is_in_the_registry_in_its_order():
    record = a_record("a", 1.0)
    found = metrics_of(record.case, record.rounds, communication_ms=0.0)
    assert found
    assert list(found) == list(METRICS)


def test_the_gate_judges_quantities_of_which_less_is_better():
    learnt = {metric.name: metric.better for metric in LEARNT}
    assert {QUANTITIES[name].better for name in METRIC_NAMES if name not in learnt} == {"lower"}
    assert learnt == {name: QUANTITIES[name].better for name in learnt}


def test_names_and_headings_tell_quantities_apart():
    assert len(QUANTITIES) == len(COUNTS) + len(METRICS) + len(SHOWN)
    headings = [(each.heading, each.written) for each in {**COUNTS, **METRICS}.values()]
    assert len(set(headings)) == len(headings)


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_heading_says_the_unit_that_is_shown(name):
    """A name ends with its unit; what is divided by a billion says so with a G."""
    each, column = QUANTITIES[name], quantity(name)
    if each.written == "billions":
        assert "G" in column.header
        assert column.shown(2e9) == "2"
    if name.split("_p")[0].endswith("_ms"):
        assert "ms" in column.header.split()
    if name.endswith("_bytes") and each.written == "bytes":
        assert column.shown(2e9) == "2 GB"
    assert column.shown(None) == "-"
