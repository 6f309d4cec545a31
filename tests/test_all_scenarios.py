"""``make results``: what is recorded is passed over, what fails stops nothing."""

import sys
from types import SimpleNamespace

import pytest
from test_documents import CLEAR

from benchmarks import all_scenarios, going_on
from benchmarks.all_scenarios import answers, command, missing, runs_on
from membench.case import METHOD_VERSION
from membench.machine.identity import Machine
from membench.results.records import strict_json
from membench.running.journal import Journal
from membench.scenario.scenario import load_scenario
from membench.scenario.shipped import list_scenarios

NAMES = [name for name, _ in list_scenarios()]
HERE = [name for name in NAMES if runs_on(load_scenario(name), "cpu")]
SCENARIO = load_scenario("quickstart")
MACHINE = Machine.of(CLEAR.environment)


def a_run_of(name="quickstart", **changes):
    known = {"scenario": name, "source": name, "scenario_text": load_scenario(name).text}
    run = CLEAR.run.model_copy(update={**known, "method_version": METHOD_VERSION, "rounds": 3, **changes})
    return CLEAR.model_copy(update={"run": run})


def test_a_recorded_scenario_is_passed_over(tmp_path):
    assert missing(tmp_path, MACHINE) == NAMES
    (tmp_path / "q.json").write_text(strict_json(a_run_of().model_dump(mode="json")))
    (tmp_path / "other.json").write_text('{"benchmark": "clock_check"}')
    assert missing(tmp_path, MACHINE) == [name for name in NAMES if name != "quickstart"]


@pytest.mark.parametrize(
    "change",
    [{"method_version": METHOD_VERSION + 1}, {"scenario_text": "another"}, {"rounds": 2}, {"interrupted": True}],
)
def test_another_text_method_or_fewer_rounds_are_no_answer(change):
    assert answers(a_run_of(), SCENARIO, MACHINE)
    assert not answers(a_run_of(**change), SCENARIO, MACHINE)


def test_a_run_in_which_nothing_was_measured_is_no_answer():
    nothing = a_run_of()
    nothing = nothing.model_copy(
        update={"cases": [each.model_copy(update={"status": "oom"}) for each in nothing.cases]}
    )
    assert not answers(nothing, SCENARIO, MACHINE)
    short = a_run_of()
    short = short.model_copy(
        update={"cases": [each.model_copy(update={"rounds": each.rounds[:2]}) for each in short.cases]}
    )
    assert not answers(short, SCENARIO, MACHINE)


def test_how_long_is_measured_and_comments_are_no_question():
    text = SCENARIO.text.replace("measure:", "# a comment\nmeasure:") + "\n# the end\n"
    assert answers(a_run_of(scenario_text=text), SCENARIO, MACHINE)
    assert not answers(a_run_of(scenario_text=SCENARIO.text.replace("model_dim:", "model_dim: 3 #")), SCENARIO, MACHINE)


def test_a_broken_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "cut.json").write_text('{"schema_version": 1')
    _, said = run(monkeypatch, {}, "--output", str(tmp_path))
    assert said.startswith("benchmarks.all_scenarios: ") and "cut.json" in said


def test_another_machine_is_no_answer():
    device = {**CLEAR.environment["device"], "name": "another", "cores": 64}
    assert not answers(a_run_of(), SCENARIO, Machine.of({"device": device}))


JOURNAL = "quickstart_cpu_2026_sha.partial.jsonl"


def resumed(folder, monkeypatch, codes):
    """The exit code of a run whose processes end with these codes, and which of them were to go on."""
    asked = []

    def measure(words, **_):
        asked.append("--resume" in words)
        return SimpleNamespace(returncode=codes[len(asked) - 1])

    monkeypatch.setattr(going_on, "subprocess", SimpleNamespace(run=measure))
    return going_on.run_membench(["run", "quickstart"], folder, "quickstart"), asked


def test_an_interrupted_scenario_goes_on(tmp_path, monkeypatch):
    assert resumed(tmp_path, monkeypatch, [0]) == (0, [False])
    (tmp_path / JOURNAL).write_text("")
    assert resumed(tmp_path, monkeypatch, [0]) == (0, [True])
    assert resumed(tmp_path, monkeypatch, [5]) == (5, [True])
    assert "measure.rounds=3" not in command("gate", tmp_path)  # it has eight


def test_one_that_may_not_go_on_starts_anew(tmp_path, monkeypatch, capsys):
    (tmp_path / JOURNAL).write_text("")
    assert resumed(tmp_path, monkeypatch, [2, 0]) == (0, [True, False])
    assert f"{JOURNAL} may not go on" in capsys.readouterr().err
    assert resumed(tmp_path, monkeypatch, [2, 2]) == (2, [True, False])
    held = Journal(tmp_path / JOURNAL)
    held.hold()
    assert resumed(tmp_path, monkeypatch, [2]) == (2, [True])  # another run is at work on it
    held.release()


def test_what_needs_a_gpu_is_not_measured_without_one():
    assert not runs_on(load_scenario("fp8_decode"), "cpu") and runs_on(load_scenario("fp8_decode"), "cuda")


def run(monkeypatch, codes, *words):
    asked = []

    def measure(words, **_):
        asked.append(words[4])
        return SimpleNamespace(returncode=codes.get(words[4], 0))

    monkeypatch.setattr(going_on, "subprocess", SimpleNamespace(run=measure))
    monkeypatch.setattr(all_scenarios, "probe_environment", lambda _: CLEAR.environment)
    monkeypatch.setattr(sys, "argv", ["x", *words])
    try:
        all_scenarios.main()
    except SystemExit as ended:
        return asked, str(ended)
    return asked, ""


def test_what_fails_stops_nothing_and_is_told(tmp_path, monkeypatch):
    asked, said = run(monkeypatch, {"decode": 5}, "--output", str(tmp_path))
    assert asked == HERE
    assert said.endswith("decode ended with 5")


def test_force_measures_also_what_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "q.json").write_text(strict_json(a_run_of().model_dump(mode="json")))
    assert "quickstart" not in run(monkeypatch, {}, "--output", str(tmp_path))[0]
    assert run(monkeypatch, {}, "--output", str(tmp_path), "--force") == (HERE, "")


def test_an_interrupt_ends_it(tmp_path, monkeypatch):
    asked, said = run(monkeypatch, {HERE[1]: 130}, "--output", str(tmp_path))
    assert asked == HERE[:2]
    assert "130" in said


def test_ctrl_c_is_no_traceback(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(all_scenarios, "run_membench", interrupted)
    assert run(monkeypatch, {}, "--output", str(tmp_path)) == ([], "130")


def test_a_file_as_the_folder_is_said_once_and_nothing_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    asked, said = run(monkeypatch, {}, "--output", str(tmp_path / "file"))
    assert asked == []
    assert "file: cannot be written" in said and said.endswith("name a folder")
