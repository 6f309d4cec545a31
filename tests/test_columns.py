"""Every column that users see is one of the registry's: in tables, on the page, in CSV and in the gate."""

import ast

import pytest
from house import ROOT, modules
from test_results_table import a_record

from membench.gate.metrics import METRIC_NAMES
from membench.results.columns import COUNTS, METRICS, QUANTITIES, SHOWN
from membench.results.metrics import metrics_of
from membench.tables.quantity import quantity

# Columns that hold words, or a number that is no quantity: a count of tokens, a change, an interval.
_WRITERS = {"short", "three", "giga", "percent", "ratio", "format_quantity", "bytes_shown", "share", "error"}
_OF_THE_GATE = {"baseline", "new"}  # of whichever metric the row is about


def columns_with_a_number(path):
    """(line, header) of each ``Column(…)`` that is given a header and how its numbers are written."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Column":
            writers = {name.id for each in node.args[1:] for name in ast.walk(each) if isinstance(name, ast.Name)}
            if writers & _WRITERS:
                header = node.args[0]
                yield node.lineno, header.value if isinstance(header, ast.Constant) else ast.unparse(header)


@pytest.mark.parametrize("path", modules("membench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_quantity_is_spelled_in_the_registry_alone(path):
    here = path.relative_to(ROOT).as_posix()
    if here == "membench/tables/quantity.py":
        return
    spelled = [each for each in columns_with_a_number(path) if each[1] not in _OF_THE_GATE]
    assert not spelled, f"{here}: give these a place in membench/results/columns.py: {spelled}"


def test_that_test_finds_a_column_that_is_spelled_elsewhere(tmp_path):
    file = tmp_path / "x.py"
    file.write_text('Column("step ms", short)\nColumn("why", right=False)\nColumn(f"{a} ms", lambda v: short(v / 2))\n')
    assert list(columns_with_a_number(file)) == [(1, "step ms"), (3, "f'{a} ms'")]


def test_every_metric_of_a_record_is_in_the_registry_in_its_order():
    record = a_record("a", 1.0)
    found = metrics_of(record.case, record.rounds, communication_ms=0.0)
    assert found
    assert list(found) == list(METRICS)


def test_the_gate_judges_quantities_of_which_less_is_better():
    assert {QUANTITIES[name].better for name in METRIC_NAMES} == {"lower"}


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
