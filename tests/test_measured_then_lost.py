"""What took long to measure is never lost with an output: outputs are tried first, told first, and kept elsewhere."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from gate_results import a_file, a_record
from test_profile import a_mode, a_profile
from test_records import a_result, a_round, a_run

from membench.ab import comparison as ab_comparison
from membench.cli import main
from membench.errors import UsageError
from membench.files import rescue
from membench.report.profile_picture import check_picture_path, write_roofline, write_rooflines
from membench.results.records import Pair, read_result, write_result
from membench.running.journal import SUFFIX, Journal
from membench.running.result_file import write_finished
from membench.running.run import Finished

PROFILE = ("profile", "--layer", "memory", "--device", "cpu")


@dataclass
class Called:
    """What a call left."""

    code: int
    out: str
    err: str


def closed():
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls membench in this process, in an empty folder; ``out`` stands for standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def run(*words, out=None, err=None):
        monkeypatch.setattr(sys, "argv", ["membench", *map(str, words)])
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            if out is not None:
                patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err if err is not None else sys.stderr)
            main()
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return Called(ended.value.code or 0, found.out, found.err)

    return run


@pytest.fixture
def full():
    """A disk without room."""
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as stream:
        yield stream


@pytest.fixture
def profiled(monkeypatch):
    """Stands for a profile that was measured; ``then`` happens while it is."""
    profile = a_profile(("memory", [a_mode()]))

    def measure(then=lambda: None):
        monkeypatch.setattr("membench.profiler.profile.run_profile", lambda *_: (then(), profile)[1])
        return profile

    measure()
    return measure


def test_a_profile_is_told_before_its_pictures_and_every_picture_is_tried(call, profiled, tmp_path):
    (tmp_path / "gone").mkdir()
    profiled(then=lambda: (tmp_path / "gone").rmdir())
    done = call(*PROFILE, "--roofline", "gone/roof.svg", "--roofline", "roof.html")
    assert done.code == 5
    assert "scores" in done.out
    assert "membench: --roofline: gone/roof.svg cannot be written (No such file or directory)" in done.err
    assert (tmp_path / "roof.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["none/roof.png", "file/roof.png", "x" * 300 + ".png", "roof.pdf", "folder.png"])
def test_a_picture_is_tried_before_anything_is_measured(call, profiled, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    profiled(then=lambda: pytest.fail("it was measured"))
    done = call(*PROFILE, "--roofline", name)
    assert done.code == 2
    assert "--roofline" in done.err


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_profile_that_cannot_be_printed_is_kept(call, profiled, full, tmp_path, words):
    profile = profiled()
    done = call(*PROFILE, *words, out=full)
    kept = tmp_path / "membench-profile.json"
    assert done.code == 5
    assert f"standard output cannot be written (No space left on device); it is in {kept}" in done.err
    assert json.loads(kept.read_text())["profile"] == profile.model_dump(mode="json")
    assert call(*PROFILE, out=closed()).code == 0  # a reader that has seen enough


def test_a_trace_that_could_not_be_written_costs_nothing_else(call, profiled, tmp_path):
    from membench.profiler.kernels import write_trace

    (tmp_path / "file").write_text("")
    assert write_trace(lambda i: None, tmp_path / "file", "memory_forward", "cpu") == []
    done = call(*PROFILE, "--trace", tmp_path)
    assert done.code == 5
    assert "scores" in done.out
    assert f"--trace {tmp_path}: no trace of memory forward could be written" in done.err


def test_a_users_settings_of_matplotlib_have_no_say(tmp_path):
    """Not text.usetex, not a backend that there is none of, not a style."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\nbackend: tkagg\n")
    program = (
        "import sys; sys.path[:0] = [sys.argv[1]]; from pathlib import Path; "
        "from test_profile import a_mode, a_profile; from membench.report.profile_picture import *; "
        "check_picture_path(Path('roof.svg')); "
        "write_roofline(a_profile(('memory', [a_mode()])), Path('roof.svg'))"
    )
    drawn = []
    for folder, backend in ((tmp_path, "nonsense"), (tmp_path / "plain", "")):
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "MPLBACKEND": backend}
        words = [sys.executable, "-c", program, str(Path(__file__).parent)]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = (folder / "roof.svg").read_text().splitlines()
        drawn.append([line for line in lines if "<dc:date>" not in line])
    assert drawn[0] == drawn[1]


def test_a_library_that_fails_to_draw_is_a_line(tmp_path, monkeypatch):
    profile = a_profile(("memory", [a_mode()]))

    def fails(*_, **__):
        raise RuntimeError("no font\nanywhere")

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", fails)
        (problem,) = write_rooflines(profile, [tmp_path / "roof.png", tmp_path / "roof.html"])
        assert problem == f"--roofline: {tmp_path / 'roof.png'} cannot be written (RuntimeError: no font anywhere)"
        assert (tmp_path / "roof.html").exists()
        patch.setattr("membench.report.profile_picture._import_matplotlib", fails)
        with pytest.raises(UsageError, match=r"cannot be drawn \(RuntimeError: no font anywhere\); ask for \.html"):
            check_picture_path(tmp_path / "roof.png")
    write_roofline(profile, tmp_path / "roof.png")


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Stands for runs that were measured; the names of those that were."""
    measured = []

    def run_scenario(scenario, *_, **__):
        measured.append(scenario.name)
        return Finished(a_result([a_round()]), tmp_path / f"{scenario.name}.json", interrupted=False)

    monkeypatch.setattr("membench.running.run.run_scenario", run_scenario)
    return measured


def test_a_run_goes_on_when_its_table_cannot_be_shown(call, runs, full, tmp_path):
    done = call("run", "quickstart", "gate", out=full)
    assert done.code == 5
    assert runs == ["quickstart", "gate"]
    assert f"results are in {tmp_path}/quickstart.json, {tmp_path}/gate.json" in done.err
    assert done.err.count("result file: ") == 2


@pytest.mark.parametrize("words", [(), ("--json",), ("--format", "csv")])
def test_a_reader_that_leaves_ends_no_run(call, runs, words):
    assert call("run", "quickstart", "gate", *words, out=closed()).code == 0
    assert runs == ["quickstart", "gate"]


def test_messages_that_nobody_can_read_end_no_run(call, runs, full):
    done = call("run", "quickstart", "gate", err=full)
    assert done.code == 0
    assert runs == ["quickstart", "gate"]
    assert done.out


def test_a_verdict_is_told_and_its_files_written_whatever_standard_output_is(call, full, tmp_path):
    for day, seconds in ((1, 0.004), (2, 0.004)):
        records = [a_record([seconds] * 8)]
        write_result(a_file(records, started=f"2026-01-0{day}T00:00:00Z"), tmp_path / f"{day}.json")
    asked = ("--junit", "j.xml", "--markdown", "m.md")
    done = call("compare", "1.json", "2.json", *asked, out=full)
    assert done.code == 5
    assert "membench: no regression" in done.err or "(exit code 0)" in done.err
    assert "standard output cannot be written" in done.err
    assert (tmp_path / "j.xml").read_text().startswith("<?xml")
    assert (tmp_path / "m.md").read_text()


def test_one_output_of_the_gate_that_fails_leaves_the_others(call, tmp_path, monkeypatch):
    write_result(a_file([a_record([0.004] * 8)]), tmp_path / "1.json")
    write_result(a_file([a_record([0.004] * 8)], started="2026-01-02T00:00:00Z"), tmp_path / "2.json")
    (tmp_path / "m.md").symlink_to("/dev/full")
    done = call("compare", "1.json", "2.json", "--junit", "j.xml", "--markdown", "m.md")
    assert done.code == 2
    assert "--markdown: m.md cannot be written (No space left on device)" in done.err
    assert (tmp_path / "j.xml").stat().st_size
    refused = call("compare", "1.json", "2.json", "--junit", "none/j.xml", "--markdown", "new.md")
    assert refused.code == 2
    assert not (tmp_path / "new.md").exists()


def a_journal(folder):
    return Journal.create(folder / f"small_cpu_x{SUFFIX}", a_run(), {"device": {}})


def test_a_result_goes_elsewhere_when_its_folder_is_gone(tmp_path, monkeypatch, capsys):
    folder, temporary = tmp_path / "results", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    journal = a_journal(folder)
    journal.path.unlink()
    folder.rmdir()
    assert write_finished(a_result([a_round()]), journal, interrupted=False) == folder / "small_cpu_x.json"
    for path in list(folder.iterdir()):
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    path = write_finished(a_result([a_round()]), journal, interrupted=False)
    assert path == temporary / "small_cpu_x.json"
    assert read_result(path).cases[0].rounds
    assert f"{folder / 'small_cpu_x.json'} cannot be written (" in capsys.readouterr().err


def test_without_any_temporary_folder_it_goes_home_or_to_standard_error(tmp_path, monkeypatch, capsys):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    monkeypatch.chdir(tmp_path)
    assert rescue(b"1", "r.json") == tmp_path / "r.json"
    assert rescue(b"2", "r.json") == tmp_path / "r-2.json"  # nothing is replaced
    journal = a_journal(tmp_path / "results")
    assert write_finished(a_result(), journal, interrupted=False) == tmp_path / "results" / "small_cpu_x.json"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert write_finished(a_result([a_round()]), journal, interrupted=False) is None
    err = capsys.readouterr().err
    assert json.loads(err[err.index("{") :])["cases"][0]["rounds"]


def test_a_journal_that_cannot_even_be_looked_at_keeps_its_rounds(tmp_path, monkeypatch):
    journal = a_journal(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", refuse)
        journal.add("a", a_round(0))
        patch.setattr(Path, "unlink", refuse)
        journal.remove()
    assert journal.has("a", 0)
    assert "Permission denied" in journal.failure
    assert journal.path.stat().st_size  # what was there stays whole


def test_a_second_look_of_an_ab_does_without_its_journal(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / f"x{SUFFIX}"

    def side(phase):
        return a_run(pair=Pair(id="p", side="base", phase=phase, planned_rounds=8))

    with pytest.raises(UsageError):
        ab_comparison._journal(path, side("first"), {})
    journal = ab_comparison._journal(path, side("confirm"), {})
    journal.add("a", a_round(0))
    assert journal.has("a", 0)
    assert "going on" in capsys.readouterr().err


def test_an_output_of_ascii_alone_is_enough(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "membench", "plan", "quickstart"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
