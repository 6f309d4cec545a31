"""What runs of one commit say of each other: known spreads and reversals are found, disturbed ones counted apart."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_docs import ROOT
from test_documents import DEVICE, a_measured, a_result

from benchmarks import going_on, repeatability, writing
from benchmarks.documents.repeatability_table import repeatability_part
from benchmarks.repeatability_parts import running
from benchmarks.repeatability_parts.judging import difference_ms, judge_runs
from benchmarks.repeatability_parts.running import finished_runs, make_runs
from benchmarks.standings import points_of
from membench.errors import UsageError
from membench.gate.result_set import LoadedResult
from membench.git.commit import running_commit
from membench.results.records import strict_json

QUIET = {"a": [10.0, 10.2, 10.4], "b": [20.0, 20.2, 20.4]}


def a_file(arms, disturbed=(), **run):
    """A run of six minutes with these rounds' medians by arm."""
    records = [a_measured(arm, rounds) for arm, rounds in arms.items()]
    for record in records:
        if record.case.arm in disturbed:
            record.rounds[1].disturbance = {"kept_samples": 2, "kept_share": 0.4}
        record.rounds[0].disturbed_samples_s = [0.5]
    known = {"started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:06:00Z", **run}
    return a_result(*records, **known)


def scaled(times, arms=QUIET):
    return {arm: [ms * times.get(arm, 1.0) for ms in rounds] for arm, rounds in arms.items()}


def test_the_spread_of_known_medians():
    found = judge_runs([a_file(scaled({"a": by})) for by in (1.0, 1.1, 1.3)])["spread"]
    assert {case["case"]: pytest.approx(case["ratio"]) for case in found["cases"]} == {
        "a, forward, 8 tokens a rank": 1.3,
        "b, forward, 8 tokens a rank": 1.0,
    }
    assert found["worst"] == pytest.approx(1.3)
    assert found["middle"] == pytest.approx(1.15)


def test_a_disturbed_run_is_left_out_of_the_undisturbed_spread():
    runs = [a_file(QUIET), a_file(scaled({"a": 1.02})), a_file(scaled({"a": 2.0}), disturbed=["a"])]
    found = judge_runs(runs)["spread"]
    assert found["worst"] == pytest.approx(2.0)
    assert found["worst_undisturbed"] == pytest.approx(1.02)


def test_differences_inside_and_outside_their_intervals():
    found = judge_runs([a_file(QUIET), a_file(scaled({"a": 1.02})), a_file(scaled({"a": 1.5}))])["differences"]
    assert (found["pairs"], found["inside"]) == (6, 4)  # the third run's a differs from both others
    assert found["share"] == found["undisturbed_share"] == pytest.approx(4 / 6)
    flagged = judge_runs([a_file(QUIET), a_file(scaled({"a": 1.5}), disturbed=["a"])])["differences"]
    assert (flagged["pairs"], flagged["inside"]) == (2, 1)
    assert (flagged["undisturbed_pairs"], flagged["undisturbed_inside"]) == (1, 1)


def test_the_interval_of_a_difference_is_wider_than_either_side_s():
    (one, _), (other, _) = (point.standings for run in (QUIET, scaled({"a": 1.1})) for point in points_of(a_file(run)))
    low, high = difference_ms(one, other)
    assert low < other.step_ms - one.step_ms < high
    assert high - low > max(one.high_ms - one.low_ms, other.high_ms - other.low_ms)
    assert high - low < one.high_ms - one.low_ms + other.high_ms - other.low_ms


def test_runs_of_few_rounds_state_no_difference_and_no_order():
    few = {"a": [10.0, 10.1], "b": [20.0, 20.2]}
    found = judge_runs([a_file(few), a_file(few)])
    assert found["differences"]["pairs"] == 0
    assert found["differences"]["without_interval"] == 2
    assert found["differences"]["share"] is None
    assert found["order"]["told_apart"] == 0


def test_a_reversal_is_found():
    turned = {"a": [30.0, 30.2, 30.4], "b": [20.0, 20.2, 20.4]}
    found = judge_runs([a_file(QUIET), a_file(QUIET), a_file(turned)])["order"]
    assert found["told_apart"] == 6  # each of three runs looked up in two others
    assert found["reversed"] == found["reversed_and_told_apart"] == 4
    assert {"point": "forward, 8 tokens a rank", "faster": "a", "slower": "b", "runs": [0, 2]} in found["reversals"]


def test_a_change_of_places_counts_where_the_other_run_is_not_sure():
    unsure = {"a": [20.5, 24.0, 21.5], "b": [20.0, 24.5, 21.0]}
    found = judge_runs([a_file(QUIET), a_file(unsure)])["order"]
    assert (found["told_apart"], found["reversed"], found["reversed_and_told_apart"]) == (1, 1, 0)


def test_a_reversal_of_a_disturbed_case_is_excused_and_counted():
    turned = {"a": [30.0, 30.2, 30.4], "b": [20.0, 20.2, 20.4]}
    found = judge_runs([a_file(QUIET), a_file(turned, disturbed=["a"])])
    assert found["order"]["reversed"] == 0
    assert found["order"]["excused"] == 2
    assert found["disturbance"] == {
        "cases": 4,
        "cases_disturbed": 1,
        "rounds": 12,
        "rounds_disturbed": 1,
        "samples": 48,
        "samples_taken_again": 4,
    }


def test_a_resumed_run_has_no_minutes():
    assert judge_runs([a_file(QUIET), a_file(QUIET, resumed="2026-01-02T00:00:00Z")])["minutes"] == [6.0, None]


@pytest.mark.parametrize(
    "times",
    [
        {"started": "soon"},
        {"finished": "later"},
        {"finished": "2026-01-01T00:06:00"},
        {"finished": "2026-01-01T00:00:00Z"},
    ],
)
def test_times_that_are_none_are_no_minutes(times):
    assert judge_runs([a_file(QUIET), a_file(QUIET, **times)])["minutes"] == [6.0, None]


def written(folder, name, result):
    path = folder / name
    path.write_text(strict_json(result.model_dump(mode="json")))
    return path


def test_files_become_one_file_and_a_table(tmp_path, monkeypatch, capsys):
    paths = [written(tmp_path, f"{n}.json", a_file(scaled({"a": by}))) for n, by in enumerate((1.0, 1.1))]
    for words in ([], ["--loaded"]):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, paths), *words, "--output", str(tmp_path)])
        repeatability.main()
    assert "2 runs of x, loaded, minutes: 6.0, 6.0" in capsys.readouterr().out
    quiet, loaded = sorted(tmp_path.glob("repeatability_*.json"), reverse=True)
    kept = json.loads(quiet.read_text())
    assert kept["benchmark"] == "repeatability" and kept["condition"] == "quiet"
    assert kept["runs"] == ["0.json", "1.json"] and kept["minutes"] == [6.0, 6.0]
    table = repeatability_part([quiet, loaded, *paths])
    assert "| x | quiet | loaded |" in table
    assert "| the same, at worst | 1.10x | 1.10x |" in table
    assert quiet.name in table and loaded.name in table
    assert repeatability_part(paths) is None


def test_what_was_found_is_shown_where_it_cannot_be_kept(tmp_path, monkeypatch, capsys):
    paths = [written(tmp_path, f"{n}.json", a_file(scaled({"a": by}))) for n, by in enumerate((1.0, 1.1))]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_whole", full)
    monkeypatch.setattr(sys, "argv", ["x", *map(str, paths), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"--output: .* cannot be written .No space left on device"):
        repeatability.main()
    assert "medians within 1.05x in the middle" in capsys.readouterr().out
    assert list((tmp_path / "out").iterdir()) == []


def test_series_of_two_machines_are_two_tables(tmp_path, monkeypatch):
    for name, cores, words in (("one", 2, []), ("other", 64, ["--loaded"])):
        environment = {"device": {**DEVICE["device"], "cores": cores}}
        runs = [a_file(QUIET), a_file(QUIET, resumed="2026-01-02T00:00:00Z")]
        paths = [
            written(tmp_path, f"{name}{n}.json", run.model_copy(update={"environment": environment}))
            for n, run in enumerate(runs)
        ]
        monkeypatch.setattr(sys, "argv", ["x", *map(str, paths), *words, "--output", str(tmp_path)])
        repeatability.main()
    table = repeatability_part(tmp_path.glob("repeatability_*.json"))
    assert "| x | quiet |\n" in table and "| x | loaded |\n" in table
    assert "| minutes a run | 6.0 |" in table


def test_a_series_that_is_not_whole_is_named(tmp_path):
    path = tmp_path / "repeatability_quiet_x.json"
    path.write_text('{"benchmark": "repeatability", "scen')
    with pytest.raises(UsageError, match=r"repeatability_quiet_x.json: no JSON"):
        repeatability_part([path])
    whole = repeatability.as_json(
        [LoadedResult(Path(f"{by}.json"), a_file(scaled({"a": by}))) for by in (1.0, 1.1)], "quiet"
    )
    for name in ("scenario", "started", "environment", "condition", "spread", "runs"):
        path.write_text(json.dumps({**whole, name: 3}))
        with pytest.raises(UsageError, match=r"repeatability_quiet_x.json: .* is missing or of another form"):
            repeatability_part([path])
    path.write_text(json.dumps(whole))
    assert repeatability_part([path])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel is asked through prctl")
def test_the_load_ends_with_what_started_it():
    code = (
        "import multiprocessing, time\n"
        "from benchmarks.gate_series import load\n"
        "with load(0):\n"
        "    time.sleep(2)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        load = Path("/proc", parent.stdout.readline().strip())
        assert load.exists()
        parent.kill()
        parent.wait()
    end = time.monotonic() + 20
    while _lives(load) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(load)


def _lives(process):
    """Whether it is there, and no dead one that nobody has asked for yet."""
    try:
        return process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, "0.json", a_file(QUIET))
    for words, said in (
        (["--scenario", "x", str(path)], "name result files, or"),
        ([str(path)], "there is 1"),
        (["--scenario", "x", "--runs", "0"], "--runs 0"),
        (["--scenario", "quickstart", "--keep", str(path)], f"--keep {path / 'quickstart_quiet'}: cannot be written"),
    ):
        monkeypatch.setattr(sys, "argv", ["x", *words, "--output", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            repeatability.main()
        assert said in f"{ended.value} {capsys.readouterr().err}"


@pytest.fixture
def named_x(monkeypatch):
    monkeypatch.setattr(running, "load_scenario", lambda source: SimpleNamespace(name=source))


def test_runs_that_are_there_count_and_the_others_are_made(tmp_path, monkeypatch, named_x):
    sha = running_commit().sha
    written(tmp_path, "x_1.json", a_file(QUIET, git_sha=sha))
    written(tmp_path, "x_other.json", a_file(QUIET, git_sha="another"))
    written(tmp_path, "x_cut.json", a_file(QUIET, git_sha=sha, interrupted=True))
    assert [path.name for path in finished_runs(tmp_path, "x", sha)] == ["x_1.json"]
    asked = []

    def measure(words, **_):
        asked.append(words[2:])
        written(tmp_path, f"x_{len(asked) + 1}.json", a_file(QUIET, git_sha=sha))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(going_on, "subprocess", SimpleNamespace(run=measure))
    made = make_runs("x", tmp_path, 3, loaded=False)
    assert [path.name for path in made] == ["x_1.json", "x_2.json", "x_3.json"]
    assert asked == [["membench", "run", "x", "--output", str(tmp_path)]] * 2


def test_a_commit_meanwhile_ends_it(tmp_path, monkeypatch, named_x):
    def measure(words, **_):
        written(tmp_path, "x.json", a_file(QUIET, git_sha="another"))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(going_on, "subprocess", SimpleNamespace(run=measure))
    with pytest.raises(UsageError, match="is of another commit than"):
        make_runs("x", tmp_path, 1, loaded=False)


def test_an_interrupted_run_goes_on_and_a_failed_one_ends_it(tmp_path, monkeypatch, named_x):
    (tmp_path / "x_cpu_2026_sha.partial.jsonl").write_text("")
    asked = []

    def measure(words, **_):
        asked.append(words)
        return SimpleNamespace(returncode=5)

    monkeypatch.setattr(going_on, "subprocess", SimpleNamespace(run=measure))
    with pytest.raises(UsageError, match="ended with 5; the runs before it are kept"):
        make_runs("x", tmp_path, 1, loaded=False)
    assert asked[0][-1] == "--resume"
