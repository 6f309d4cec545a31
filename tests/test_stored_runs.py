"""The benchmark of stored runs: slowed calls do so much more work, and pairs are judged as compare does."""

import json
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from test_docs import ROOT
from test_gate_paced import paced_run

from benchmarks import stored_runs
from benchmarks.slowed_measurement import Slowed, slowed, units_for
from benchmarks.slowed_worker import SHARE
from layers import build, spec_from
from membench.case import Case
from membench.measuring.time import Clock
from membench.results.records import read_result, write_result


def test_units_make_up_the_share():
    assert units_for(0.1, [0.01] * 3, [1e-5] * 3) == 100
    assert units_for(0.0, [0.01] * 3, [1e-5] * 3) == 0
    assert units_for(0.1, [0.01, 0.01, 0.09], [1e-5, 1e-5, 9e-5]) == 100  # a burst over neighbours


def test_a_slowed_step_does_the_step_and_the_units_behind_it():
    did = []
    call = slowed(did.append, lambda: did.append("unit"), 3)
    call(7)
    assert did == [7, "unit", "unit", "unit"]


@pytest.mark.parametrize("share", ["0.0", "5.0"])
def test_a_prepared_case_is_slowed_by_the_share_asked(share, monkeypatch):
    monkeypatch.setenv(SHARE, share)
    spec = spec_from({"kind": "dense", "model_dim": 32, "ffn_hidden": 64, "dtype": "float32"})
    case = Case(arm="dense", mode="forward", layer=spec, tokens=4)
    units = []
    monkeypatch.setattr("benchmarks.slowed_measurement.slowed", lambda step, work, count: units.append(count) or step)
    prepared = Slowed(build(spec, device="cpu"), Clock("cpu"), 2**16, lambda _: None).prepare(case, ["eager"])
    prepared.step(0)
    [count] = units
    assert (count > 0) == (share != "0.0")


def test_the_worker_imports_torch_only_when_its_threads_are_pinned():
    code = "import sys, benchmarks.slowed_worker; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.fixture
def folder(tmp_path, seed):
    """Runs of one commit and runs slowed by a tenth, on a machine that drifts, by more than that between runs."""
    rng = np.random.default_rng(seed)
    for name, ratio, levels in (("base", 1.0, (0.3, 0.0, -0.3)), ("slow10", 1.1, (-0.3, 0.0, 0.3))):
        for number, level in enumerate(levels, 1):
            run = paced_run(rng, 0.004 * ratio, level + 0.1 * rng.standard_normal(8))
            minute = f"2026-01-01T00:{timedelta(minutes=number).seconds // 60:02}"
            times = {"started": f"{minute}:00Z", "finished": f"{minute}:50Z"}
            run = run.model_copy(update={"run": run.run.model_copy(update=times)})
            write_result(run, tmp_path / f"{name}_{number}.json")
    return tmp_path


def test_pairs_are_all_of_base_and_base_with_every_slowed_one(folder):
    runs = stored_runs.load(folder)
    assert [(a.name, b.name) for a, b in stored_runs.pairs(runs, "base")] == [
        ("base_1.json", "base_2.json"),
        ("base_1.json", "base_3.json"),
        ("base_2.json", "base_3.json"),
    ]
    assert len(stored_runs.pairs(runs, "slow10")) == 9


def test_the_ratio_finds_what_milliseconds_do_not(folder):
    found = stored_runs.judge(folder)
    by = {name: each["ratio"] for name, each in found["verdicts"].items()}
    assert by["base"]["slow"] == 0
    assert by["slow10"]["slow"] == 1
    assert list(by["slow10"]["slow_by_case"].values()) == [1]
    in_ms = found["verdicts"]["slow10"]["milliseconds"]
    assert in_ms["comparisons"] == by["slow10"]["comparisons"] == 9
    assert in_ms["slow"] < 1
    assert by["base"]["interval_half_width_median"] < in_ms["interval_half_width_median"]
    spread = found["spread"]
    assert spread["ratio"]["of_rounds_within_a_run"] < spread["milliseconds"]["of_rounds_within_a_run"]
    assert found["run_seconds_median"] == 50


def test_margins_are_judged_apart_for_runs_of_different_hours(folder, capsys):
    later = "2026-01-01T02:03"
    change_run(folder / "base_3.json", started=f"{later}:00Z", finished=f"{later}:50Z")
    found = stored_runs.judge(folder)["slow_by_margin"]
    assert {when: each["comparisons"] for when, each in found["base"].items()} == {
        "within an hour": 1,
        "hours apart": 2,
    }
    near = found["slow10"]["within an hour"]["slow"]
    assert list(near) == ["0.03", "0.05", "0.07"]
    assert near["0.03"] == 1
    stored_runs.show(stored_runs.judge(folder))
    assert "hours apart" in capsys.readouterr().out


def test_a_margin_above_the_slowdown_finds_nothing(folder, monkeypatch):
    monkeypatch.setattr(stored_runs, "_MARGINS", (0.03, 0.2))
    found = stored_runs.judge(folder)["slow_by_margin"]["slow10"]["within an hour"]["slow"]
    assert found == {"0.03": 1, "0.2": 0}


def test_what_is_judged_is_shown_and_strict_json(folder, capsys):
    found = stored_runs.judge(folder)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    stored_runs.show(found)
    out = capsys.readouterr().out
    assert "slow10" in out
    assert "100.0 %" in out


def change_run(path, **changes):
    result = read_result(path)
    write_result(result.model_copy(update={"run": result.run.model_copy(update=changes)}), path)


def without_rounds(path):
    """As a run leaves it in which nothing could be measured."""
    result = read_result(path)
    failed = [each.model_copy(update={"status": "oom", "rounds": []}) for each in result.cases]
    write_result(result.model_copy(update={"cases": failed}), path)


def test_what_was_never_measured_is_unknown(folder, capsys):
    for path in folder.glob("base_*.json"):
        without_rounds(path)
    for path in folder.glob("slow10_*.json"):
        path.unlink()
    found = stored_runs.judge(folder)
    stored_runs.show(found)
    assert found["spread"]["ratio"] == {"of_rounds_within_a_run": None, "of_medians_between_runs": None}
    assert found["verdicts"]["base"]["ratio"]["slow"] is None
    assert "0.0 %" not in capsys.readouterr().out


def test_a_case_that_one_run_lacks_is_in_no_spread(folder):
    without_rounds(folder / "base_2.json")
    assert stored_runs.judge(folder)["spread"]["ratio"]["of_rounds_within_a_run"] is None


def test_runs_without_an_end_have_no_seconds(folder, capsys):
    for path in folder.glob("*.json"):
        change_run(path, finished=None)
    found = stored_runs.judge(folder)
    assert found["run_seconds_median"] is found["finished"] is None
    stored_runs.show(found)
    assert "runs of 8 rounds\n" in capsys.readouterr().out


def said(monkeypatch, capsys, *words):
    """The exit code, and what a command says that is refused."""
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        stored_runs.main()
    return f"{ended.value} {capsys.readouterr().err}"


def test_bad_input_is_one_line(folder, tmp_path_factory, monkeypatch, capsys):
    empty = tmp_path_factory.mktemp("empty")
    assert "fewer than two runs" in said(monkeypatch, capsys, "judge", empty)
    assert "--runs 0: one or more" in said(monkeypatch, capsys, "record", empty, "--runs", 0)
    assert "measure.rounds: should be a valid integer, not 'x'" in said(
        monkeypatch, capsys, "record", empty, "--set", "measure.rounds=x"
    )
    file = folder / "base_1.json"
    assert f"FOLDER {file}: cannot be written" in said(monkeypatch, capsys, "record", file)
    kept = folder / "nowhere" / "x.json"
    assert f"--json: {kept} cannot be written" in said(monkeypatch, capsys, "judge", folder, "--json", kept)
    change_run(folder / "slow10_1.json", scenario="other")
    assert "several scenarios (other, small)" in said(monkeypatch, capsys, "judge", folder)
    file.write_text(file.read_text()[:1000])
    assert f"{file}: no strict JSON" in said(monkeypatch, capsys, "judge", folder)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"interrupted": True, "path": None, "measured": True}, "130"),
        ({"interrupted": False, "path": None, "measured": True}, "base_1.json was not made"),
        ({"interrupted": False, "path": "made.json", "measured": False}, "nothing was measured, as made.json says"),
    ],
)
def test_a_run_that_measured_nothing_is_not_kept(left, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stored_runs, "run_scenario", lambda *_, **__: SimpleNamespace(**left))
    worker = stored_runs.Runner.worker
    monkeypatch.setenv(SHARE, "")  # as it was, afterwards
    assert words in said(monkeypatch, capsys, "record", tmp_path, "--variants", "base")
    assert not list(tmp_path.glob("*.json"))
    assert stored_runs.Runner.worker == worker != "benchmarks.slowed_worker"  # others are not slowed
