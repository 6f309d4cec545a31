"""The frame of cases as CSV and Parquet: what run and report write, and what reads back as the same table."""

import csv
import io
import sys

import pandas as pd
import pytest
from report_results import a_key_sweep, a_sweep
from test_frame import COMMITTED, PER, frame_of, save
from test_records import a_result, a_round

import membench
from membench.cli.run import Format, run
from membench.errors import UsageError
from membench.results.records import write_result
from membench.running.run import Finished
from membench.tables.frame_file import csv_text, parquet_bytes


@pytest.mark.parametrize("per", PER)
def test_parquet_keeps_every_value_and_type(per):
    pytest.importorskip("pyarrow")
    frame = frame_of(a_sweep(), a_key_sweep(), *COMMITTED.values(), per=per)
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(parquet_bytes(frame))), frame)


def test_csv_read_back_is_the_same_table():
    frame = frame_of(a_sweep(), a_key_sweep(), *COMMITTED.values())
    text = csv_text(frame)
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == len(frame) + 1
    assert rows.count(rows[0]) == 1
    dates = ["started", "finished"]
    types = {name: dtype for name, dtype in frame.dtypes.items() if name not in dates}
    again = pd.read_csv(io.StringIO(text), dtype=types, parse_dates=dates)
    pd.testing.assert_frame_equal(again.astype(frame.dtypes), frame)


def test_a_cell_that_a_spreadsheet_would_compute_is_text():
    result = a_sweep(tokens=(8,), modes=("forward",), description="=1+1", scenario="=HYPERLINK(1)")
    result.cases[0].reason = "+cmd"
    (header, first, *_) = csv.reader(io.StringIO(csv_text(frame_of(result))))
    row = dict(zip(header, first, strict=True))
    assert (row["scenario"], row["reason"]) == ("'=HYPERLINK(1)", "'+cmd")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Makes ``membench run`` write made-up results instead of measuring."""
    results = {"quickstart": a_sweep(scenario="quickstart"), "gate": a_key_sweep()}

    def run_scenario(scenario, *_, **__):
        path = tmp_path / f"{scenario.name}.json"
        write_result(results[scenario.name], path)
        return Finished(results[scenario.name], path, interrupted=False)

    monkeypatch.setattr("membench.running.run.run_scenario", run_scenario)
    return results


def test_run_puts_parquet_beside_each_result_file_and_nothing_on_standard_output(call, measured, tmp_path):
    pytest.importorskip("pyarrow")
    code, out, err = call("run", "quickstart", "gate", "--format", "parquet", "--output", tmp_path)
    assert (code, out) == (0, "")
    assert err.count("table: ") == 2
    for name, result in measured.items():
        frame = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert frame["id"].tolist() == [record.id for record in result.cases]
        assert set(frame["file"]) == {str(tmp_path / f"{name}.json")}


def test_a_parquet_file_that_cannot_be_written_ends_no_run(call, measured, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "quickstart.parquet").mkdir()
    code, _, err = call("run", "quickstart", "gate", "--format", "parquet", "--output", tmp_path)
    assert code == 5
    assert "quickstart.parquet cannot be written (Is a directory); membench report" in err
    assert len(pd.read_parquet(tmp_path / "gate.parquet")) == 4


def test_without_pyarrow_nothing_is_measured_and_the_extra_is_named(measured, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"--format parquet: .*pip install 'membench\[parquet\]'"):
        run(["quickstart"], output=tmp_path, table=Format.PARQUET)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".CSV"])
def test_report_writes_the_table_of_all_files(call, tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    paths = save(tmp_path, a_sweep(), a_key_sweep())
    code, out, err = call("report", *paths, "--table", f"cases{ending}")
    assert (code, out) == (0, "")
    assert f"table: cases{ending}" in err
    read = pd.read_parquet if ending == ".parquet" else pd.read_csv
    frame, wanted = read(tmp_path / f"cases{ending}"), membench.read_results(paths)
    assert frame["id"].tolist() == wanted["id"].tolist()
    assert frame["step_ms"].tolist() == pytest.approx(wanted["step_ms"].tolist(), nan_ok=True)
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("cases.xlsx", "--table: cases.xlsx is no name for a table; give one that ends in .csv or .parquet"),
        ("cases", "is no name for a table"),
        ("-", "is no name for a table"),
        ("no/cases.csv", "--table: no/cases.csv cannot be written"),
        ("folder.csv", "--table: folder.csv cannot be written"),
        ("0.csv", "0.csv is one of the result files"),
    ],
)
def test_a_table_that_cannot_be_is_bad_input_before_anything_is_written(call, tmp_path, table, says):
    (path,) = save(tmp_path, a_sweep(tokens=(8,)))
    path.rename(tmp_path / "0.csv")
    (tmp_path / "folder.csv").mkdir()
    code, _, err = call("report", "0.csv", "--table", table)
    assert code == 2
    assert says in err
    assert not (tmp_path / "report.html").exists()


def test_report_without_pyarrow_names_the_extra(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, err = call("report", *save(tmp_path, a_result([a_round()])), "--table", "cases.parquet")
    assert code == 2
    assert "pip install 'membench[parquet]'" in err
