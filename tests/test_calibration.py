"""``membench doctor --nproc``: ranks that meet, a file that a scenario can name, one line for what cannot be."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.published_networks import curve, low_latency, nccl, normal
from layers.spec import COLLECTIVES
from membench.cli import app
from membench.cli.doctor import doctor
from membench.errors import UsageError
from membench.measuring import network as measuring
from membench.planning.network_file import read_network
from membench.tables.network import network_tables, within

FEW = {1024: 1e-4, 2048: 1.1e-4, 4096: 1.2e-4, 8192: 1.5e-4, 16384: 2e-4, 32768: 3e-4, 65536: 5e-4}


@pytest.fixture
def measured(monkeypatch):
    """What is measured of two ranks, without measuring."""
    samples = ("gloo", {kind: dict(FEW) for kind in COLLECTIVES})
    monkeypatch.setattr(measuring, "_timed", lambda device, ranks, threads: samples)
    return measuring.measured_network("cpu", 2, 1)


def test_every_other_size_is_left_out_of_the_fit(measured):
    for of in measured["collectives"].values():
        assert [size["payload_bytes"] for size in of["sizes"]] == list(FEW)
        assert [size["fitted"] for size in of["sizes"]] == [True, False] * 3 + [True]
        assert all(size["predicted_s"] == pytest.approx(size["measured_s"], rel=0.1) for size in of["sizes"])
    assert within(measured, 0.25) == (12, 12)
    assert within(measured, 0.0)[0] < 12


def test_tables_show_predicted_beside_measured(measured):
    lines, sizes = network_tables(measured)
    assert lines.title == "gloo between 2 ranks of one machine"
    assert [row[0] for row in lines.cells()] == list(COLLECTIVES)
    assert "12 of 12 sizes" in sizes.caption
    assert sizes.cells()[0][1:3] == ["1.02K", "100"]


def test_two_ranks_meet_and_the_kept_file_is_a_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "_ROUNDS", 2)
    monkeypatch.setattr(measuring, "_SIZES", 14)
    doctor("cpu", 2, tmp_path, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("network_")
    assert json.loads(kept.read_text()) == printed
    assert printed["ranks"] == 2
    assert all(size["measured_s"] > 0 for of in printed["collectives"].values() for size in of["sizes"])
    assert read_network(str(kept)).description == "gloo as measured on 2 processes of one machine"


@pytest.mark.parametrize("count", ["0", "1", "-2", "257"])
def test_a_number_of_processes_that_exchanges_nothing(count, tmp_path):
    with pytest.raises(UsageError, match=r"^--nproc: .* processes: from 2 to 256 can exchange something$"):
        doctor("cpu", int(count), tmp_path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="ends like a file name"):
        doctor("cpu", 2, tmp_path / "x.json")


def test_a_rank_that_ends_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "_MODULE", "membench.measuring.no_such_module")
    with pytest.raises(UsageError, match=r"^--nproc: rank 0 of 2: "):
        measuring.measured_network("cpu", 2, 1)


def test_published_figures_are_predicted_as_well_as_the_document_says():
    """Figures of arithmetic: DeepEP within a third, NCCL's own as they are."""
    rows = [*low_latency(), *normal()]
    assert {row.ranks for row in rows} == {8, 16, 32, 64, 128, 256}
    assert all(abs(row.error) < 1 / 3 for row in rows)
    assert all(row.error < 0 for row in low_latency()), "kernels do more than move bytes"
    errors = {row.what: row.error for row in nccl()}
    assert abs(errors["all-gather, 16 GiB"]) < 0.05
    assert errors["all-reduce, 4 GiB, NVLink SHARP"] < -0.2, "is not modelled"


def test_the_curve_spans_8_to_1024_devices():
    rows = {(row["arm"], row["mode"], row["layout"]): row["step_ms"] for row in curve()}
    assert list(rows["memory", "train_step", "columns"]) == [str(2**power) for power in range(10, 2, -1)]
    assert rows["dense", "forward", "replicas"]["8"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", "16"], "--nodes: '16': hosts of what?"),
        (["--hardware", "h100x8", "--nodes", "0"], "--nodes: '0': write a whole number"),
        (["--hardware", "h999x8", "--nodes", "2"], "--hardware: unknown hardware 'h999x8'"),
    ],
)
def test_bad_words_are_one_line(words, says):
    done = CliRunner().invoke(app, ["plan", "quickstart", *words])
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)
