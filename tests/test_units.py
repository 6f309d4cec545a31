"""Units: a header, a name or a suffix says the unit that its values have, in tables as in CSV."""

import csv
import io
from pathlib import Path

import pytest
from report_results import a_key_sweep, a_sweep
from test_profile import a_mode, a_profile

from membench.cli.run import Format, run
from membench.errors import UsageError
from membench.planning.planner import make_plan
from membench.results.frame import results_frame
from membench.results.ranking import counted
from membench.results.records import read_result
from membench.running.run import Finished
from membench.scenario.scenario import parse_scenario
from membench.tables.cases import raw_table
from membench.tables.numbers import budget, bytes_shown
from membench.tables.plan import plan_tables
from membench.tables.profile import profile_tables
from membench.tables.render import Column, Table, to_csv
from membench.tables.results import arms_table, result_tables

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run_csv(monkeypatch, tmp_path, capsys):
    """Runs scenarios whose results are made up, or raise; what came on standard output as rows."""

    def started(*outcomes):
        left = list(outcomes)

        def measured(*_, **__):
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return Finished(outcome, tmp_path / "r.json", False)

        monkeypatch.setattr("membench.running.run.run_scenario", measured)
        error = None
        try:
            run(["quickstart"] * len(outcomes), output=tmp_path, table=Format.CSV)
        except UsageError as raised:
            error = raised
        return list(csv.reader(io.StringIO(capsys.readouterr().out))), error

    return started


def test_csv_is_one_table_whatever_was_run(run_csv):
    results = [a_sweep(), a_key_sweep(), read_result(next((ROOT / "results").glob("peers_*.json")))]
    (header, *rows), _ = run_csv(*results)
    records = [record for result in results for record in result.cases]
    assert len(rows) == len(records)
    assert {len(row) for row in rows} == {len(header)}
    assert len(set(header)) == len(header)
    assert rows.count(header) == 0
    for row, record in zip(rows, records, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells["id"] == record.id
        assert (cells["kind"], cells["mode"]) == (record.case.layer.kind, record.case.mode)
        assert cells["status"] == record.status
        assert float(cells["stored_bytes"]) == counted(record, "stored_bytes")
        for name in ("latency_ms_p50", "dram_bytes_per_s", "peak_process_bytes", "mfu"):
            value = record.metrics.get(name)
            assert cells[name] == ("" if value is None else repr(value)), "raw, under the record's own name"


def test_csv_of_what_was_measured_comes_though_another_scenario_fails(run_csv):
    (_, *rows), error = run_csv(a_sweep(tokens=(8,)), UsageError("cannot be used"))
    assert len(rows) == 8
    assert "cannot be used" in str(error)


def test_csv_names_have_no_shown_unit():
    header = [column.header for column in raw_table(results_frame([("r.json", a_sweep())])).columns]
    assert not [name for name in header if " " in name or "GB" in name or "%" in name]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-dense", "'-dense"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("＝1+1", "'＝1+1"),
        ('a "b", c\nd', 'a "b", c\nd'),
        (-1.5, "-1.5"),
        (1e-9, "1e-09"),
        (float("nan"), ""),
        (float("-inf"), ""),
        (None, ""),
        ("記憶", "記憶"),
    ],
)
def test_a_csv_cell_is_what_a_spreadsheet_should_take(value, cell):
    table = Table("", "", [Column("arm", right=False), Column("=x")], [[value, 1]])
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [["arm", "'=x"], [cell, "1"]]


def test_bytes_are_never_billions():
    assert [bytes_shown(v) for v in (None, 0, 512, 61e6, 1.234e9, 137e9, 999.9e9, 2e12, 1500)] == [
        *("-", "0 B", "512 B", "61 MB", "1.23 GB", "137 GB", "1 TB", "2 TB", "1.5 kB")
    ]
    stages = profile_tables(a_profile(("memory", [a_mode()])))[1]
    at = [column.header for column in stages.columns].index("DRAM bytes")
    assert [row[at] for row in stages.cells()][:2] == ["10 MB", "61 MB"]


def test_budgets_have_the_unit_of_what_is_budgeted():
    shown = {name: budget(name)(18.25e9) for name in ("params", "flops_per_token", "stored_bytes", "moved_bytes")}
    assert shown == {
        "params": "18.25B",
        "flops_per_token": "18.25B",
        "stored_bytes": "18.25 GB",
        "moved_bytes": "18.25 GB",
    }
    assert budget("latency_ms")(1500.0) == "1500"
    result = a_sweep(tokens=(8,))
    for record in result.cases:
        record.asked = record.achieved = {"stored_bytes": 2e9}
    table = arms_table(result)
    assert dict(zip([c.header for c in table.columns], table.cells()[0], strict=True))["stored_bytes asked"] == "2 GB"


def test_a_plans_other_budgets_have_their_unit():
    text = """
schema_version: 1
name: small
model_dim: 256
dtype: float32
arms: {memory: {layer: memory, key_dim: 64, budgets: {stored_bytes: 16MB}}}
"""
    arms, _ = plan_tables(make_plan(parse_scenario(text, "s.yaml"), available_bytes=int(40e9)))
    assert "(asked 16 MB)" in arms.cells()[0][-1]


def test_every_byte_and_time_column_converts_to_its_header():
    result = a_sweep(tokens=(8,), modes=("forward",))
    record = result.cases[0]
    (cases,) = (table for table in result_tables(result) if table.title.startswith("forward, 8 tokens"))
    headers = [column.header for column in cases.columns]
    row = next(dict(zip(headers, cells, strict=True)) for cells in cases.cells() if cells[0] == record.case.arm)
    assert float(row["peak GB"]) == pytest.approx(record.metrics["peak_process_bytes"] / 1e9, rel=0.01)
    assert float(row["GB/s"]) == pytest.approx(record.metrics["dram_bytes_per_s"] / 1e9, rel=0.01)
    assert float(row["IQR ms"]) == pytest.approx(record.metrics["latency_ms_iqr"], rel=0.01)
    assert "peak GiB" not in headers, "all sizes are decimal, as those beside them"
