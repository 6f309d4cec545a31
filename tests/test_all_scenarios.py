"""``make results``: what is recorded is passed over, what fails stops nothing."""

import sys
from types import SimpleNamespace

import pytest
from test_documents import CLEAR

from benchmarks import all_scenarios
from benchmarks.all_scenarios import answers, command, missing
from membench.case import METHOD_VERSION
from membench.machine.identity import Machine
from membench.results.records import strict_json
from membench.scenario.scenario import load_scenario
from membench.scenario.shipped import list_scenarios

NAMES = [name for name, _ in list_scenarios()]
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


def test_another_machine_is_no_answer():
    device = {**CLEAR.environment["device"], "name": "another", "cores": 64}
    assert not answers(a_run_of(), SCENARIO, Machine.of({"device": device}))


def test_an_interrupted_scenario_goes_on(tmp_path):
    assert "--resume" not in command("quickstart", tmp_path)
    (tmp_path / "quickstart_cpu_2026_sha.partial.jsonl").write_text("")
    assert command("quickstart", tmp_path)[-1] == "--resume"
    assert "measure.rounds=3" not in command("gate", tmp_path)  # it has eight


def run(monkeypatch, codes, *words):
    asked = []

    def measure(words, **_):
        asked.append(words[4])
        return SimpleNamespace(returncode=codes.get(words[4], 0))

    monkeypatch.setattr(all_scenarios, "subprocess", SimpleNamespace(run=measure))
    monkeypatch.setattr(all_scenarios, "probe_environment", lambda _: CLEAR.environment)
    monkeypatch.setattr(sys, "argv", ["x", *words])
    try:
        all_scenarios.main()
    except SystemExit as ended:
        return asked, str(ended)
    return asked, ""


def test_what_fails_stops_nothing_and_is_told(tmp_path, monkeypatch):
    asked, said = run(monkeypatch, {"decode": 5}, "--output", str(tmp_path))
    assert asked == NAMES
    assert said.endswith("decode ended with 5")


def test_force_measures_also_what_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "q.json").write_text(strict_json(a_run_of().model_dump(mode="json")))
    assert "quickstart" not in run(monkeypatch, {}, "--output", str(tmp_path))[0]
    assert run(monkeypatch, {}, "--output", str(tmp_path), "--force") == (NAMES, "")


def test_an_interrupt_ends_it(tmp_path, monkeypatch):
    asked, said = run(monkeypatch, {NAMES[1]: 130}, "--output", str(tmp_path))
    assert asked == NAMES[:2]
    assert "130" in said
