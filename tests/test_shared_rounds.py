"""What the processes of a run share: a round's ceilings, drawn inputs, and what earlier rounds have checked."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from layers import spec_from
from membench.case import Case
from membench.measuring import ceilings as ceilings_module
from membench.measuring.ceilings import MeasuredCeilings
from membench.measuring.time import Clock
from membench.processes.channel import Channel, Failed
from membench.results.records import Round
from membench.running import runner as runner_module
from membench.running.case_answers import CaseAnswer
from membench.running.protocol import Build, Built, Found, MeasureCase
from membench.running.runner import Runner
from membench.scenario.settings import Measure

MACHINE = {"copy_bytes_per_s": 1e9, "read_bytes_per_s": 2e9, "matmul_flops_per_s": 3e9, "matmul_dtype": "float32"}


def a_case(arm, mode="forward", dtype="float32"):
    spec = spec_from({"kind": "dense", "model_dim": 64, "dtype": dtype, "ffn_hidden": 128})
    return Case(arm=arm, mode=mode, layer=spec, tokens=8)


class Rounds:
    """A journal in memory."""

    def __init__(self):
        self.rounds = {}

    def add(self, case_id, found):
        self.rounds.setdefault(case_id, []).append(found)

    def has(self, case_id, number):
        return any(r.number == number and r.status == "ok" for r in self.rounds.get(case_id, ()))

    def latest(self, case_id):
        by_number = {r.number: r for r in self.rounds.get(case_id, ())}
        return [by_number[number] for number in sorted(by_number)]


class Processes:
    """Stands for ``case_answers``: answers at once, and remembers what was asked. ``fails``: (arm, mode, round)."""

    def __init__(self, fails=()):
        self.jobs, self.questions, self.fails, self.answers = [], [], set(fails), {}

    def __call__(self, job, start, question, *, report):
        self.jobs.append(job)
        number = sum(each.cases[0].arm == job.cases[0].arm for each in self.jobs) - 1
        measured = {**MACHINE, "matmul_dtype": job.cases[0].layer.dtype, "copy_bytes_per_s": 1e9 + len(self.jobs)}
        built = Built(origin="", threads=2, ceilings={**(job.ceilings or measured), "random_row_bytes": None})
        for index, case in enumerate(job.cases):
            asked = question(case, index)
            self.questions.append((case.arm, case.mode, asked))
            if (case.arm, case.mode, number) in self.fails:
                answer = Failed(status="error", reason="lost")
            else:
                answer = Found(found=self.found(case, asked))
            yield CaseAnswer(case, "now", built, answer, first=index == 0)

    def found(self, case, asked):
        reference = {"tokens": 1, "errors": {"output": 0.0}, "selection_shortfall": None, "tolerance": 1.0}
        if asked.checked:
            reference |= {"bit_equal_to_round": asked.checked.round}
        facts = {"samples_s": [1e-3], "implementation": {"chosen": "eager"}, "seconds": {}}
        memory = {"weights_bytes": 1} if asked.memory else {}
        return {**facts, "answer_digest": self.answers.get(case.arm, "a"), "reference": reference, "memory": memory}


@pytest.fixture
def run(monkeypatch):
    def start(cases, processes, journal=None, rounds=3):
        monkeypatch.setattr(runner_module, "case_answers", processes)
        plan = SimpleNamespace(runnable=[SimpleNamespace(case=case) for case in cases])
        journal = journal or Rounds()
        Runner(plan, Measure(rounds=rounds), "cpu", journal, print, lambda *_: None).run()
        return journal

    return start


ARMS = [a_case(arm, mode) for arm in ("one", "two", "three") for mode in ("forward", "forward_backward")]


def test_the_first_process_of_a_round_measures_the_machine(run):
    processes = Processes()
    journal = run(ARMS, processes)
    for number in range(3):
        first, *others = processes.jobs[3 * number : 3 * number + 3]
        assert first.ceilings == {}
        held_against = {**MACHINE, "copy_bytes_per_s": 1e9 + 3 * number + 1}
        assert [job.ceilings for job in others] == [held_against] * 2
        found = {case.arm: journal.latest(case.id)[number] for case in ARMS}
        assert {arm: r.ceilings_from for arm, r in found.items()} == {
            first.cases[0].arm: None,
            **{job.cases[0].arm: first.cases[0].arm for job in others},
        }
        assert {r.ceilings["copy_bytes_per_s"] for r in found.values()} == {held_against["copy_bytes_per_s"]}


def test_each_dtype_has_its_own(run):
    cases = [a_case("one"), a_case("two", dtype="bfloat16"), a_case("three"), a_case("four", dtype="bfloat16")]
    processes = Processes()
    run(cases, processes, rounds=1)
    assert [job.ceilings.get("matmul_dtype") for job in processes.jobs] == [None, None, "float32", "bfloat16"]


def test_later_rounds_are_told_what_was_checked(run):
    processes = Processes()
    journal = run(ARMS, processes)
    asked = {(arm, mode): [q for a, m, q in processes.questions if (a, m) == (arm, mode)] for arm, mode, _ in
             processes.questions}  # fmt: skip
    for questions in asked.values():
        assert [q.checked and q.checked.round for q in questions] == [None, 0, 0]
        assert [q.memory for q in questions] == [True, False, False]
    for case in ARMS:
        assert [bool(r.memory) for r in journal.latest(case.id)] == [True, False, False]


def test_a_first_round_that_failed_checked_nothing(run):
    processes = Processes(fails=[("one", "forward", 0)])
    run(ARMS, processes)
    asked = [q for arm, mode, q in processes.questions if (arm, mode) == ("one", "forward")]
    assert [q.checked and q.checked.round for q in asked] == [None, None, 1]
    assert [q.memory for q in asked] == [True, True, False]


def test_a_resumed_run_measures_what_is_missing_and_knows_what_was_checked(run):
    whole = run(ARMS, Processes())
    for at in range(len(ARMS) * 3):  # killed after so many measurements
        left, kept = Rounds(), 0
        for number in range(3):
            for case in ARMS:
                if kept < at:
                    left.add(case.id, whole.latest(case.id)[number])
                    kept += 1
        processes = Processes()
        journal = run(ARMS, processes, left)
        assert len(processes.questions) == 3 * len(ARMS) - at
        for case in ARMS:
            assert [r.number for r in journal.rounds[case.id]] == [0, 1, 2]
            assert [r.reference.get("bit_equal_to_round") for r in journal.latest(case.id)] == [None, 0, 0]


def test_a_round_of_an_earlier_membench_checked_nothing_that_can_be_proved(run):
    old = Rounds()
    for case in ARMS:
        old.add(case.id, Round(number=0, started="then", status="ok", samples_s=[1e-3], memory={"weights_bytes": 1}))
    processes = Processes()
    run(ARMS, processes, old)
    assert [q.checked and q.checked.round for _, _, q in processes.questions[: len(ARMS)]] == [None] * len(ARMS)


def test_the_folder_of_drawn_inputs_goes_with_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module.tempfile, "tempdir", str(tmp_path))
    processes = Processes()
    run(ARMS, processes)
    assert len({job.inputs_folder for job in processes.jobs}) == 1
    assert processes.jobs[0].inputs_folder.startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_has_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module.tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, ours, others = (tmp_path / name for name in (f"membench-inputs-{ended.pid}-a", "membench-inputs-1-b", "else"))
    for folder in (left, ours, others):
        folder.mkdir()
    with runner_module.inputs_folder() as made:
        assert made is not None and not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([ours, others])


def test_a_run_without_a_temporary_folder_draws_every_time(run, monkeypatch):
    def refuse(**_):
        raise OSError("read-only")

    monkeypatch.setattr(runner_module.tempfile, "TemporaryDirectory", refuse)
    processes = Processes()
    run(ARMS, processes)
    assert {job.inputs_folder for job in processes.jobs} == {None}


def test_known_ceilings_are_not_measured(monkeypatch):
    def measured(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(ceilings_module, "stream_ceilings", measured)
    monkeypatch.setattr(ceilings_module, "matmul_ceiling", measured)
    found = MeasuredCeilings.of_machine(Clock("cpu"), 2**20, "float32", MACHINE)
    assert {**MACHINE, **found.as_json()} == found.as_json()
    assert found.random_row_bytes_per_s is None


def test_a_way_that_is_far_slower_is_not_sampled(virtual_time):
    calls = []

    def way(name, seconds):
        return lambda _: (calls.append(name), virtual_time.sleep(seconds))

    best = ceilings_module._best_seconds(Clock("cpu"), [way("slow", 0.05), way("fast", 0.01), way("near", 0.012)])
    assert best == pytest.approx(0.01)
    assert calls.count("slow") == 2
    assert min(calls.count("fast"), calls.count("near")) > 5


def test_what_is_at_its_default_is_not_sent():
    ours, end = Channel.pair()
    theirs = Channel.inherited(end.detach())
    job = Build.of([a_case("one")], "cpu", Measure())
    ours.send(job)
    said = theirs.receive()
    assert not said.keys() & {"ceilings", "inputs_folder"}
    ours.send(MeasureCase(index=0))
    assert theirs.receive() == {"message": "MeasureCase", "index": 0}
    ours.close()
    theirs.close()
