"""The whole way of level training in processes: trials, seeds, an interruption, what is left, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import interruptible
from test_run import one_result, run
from training_cases import TINY, tiny_plan

import membench
from membench.learning.settings import Stop
from membench.machine.device import usable_cores
from membench.processes.child import ChildProcess
from membench.results.records import Round, Trial, read_result
from membench.running.journal import Journal
from membench.scenario.settings import TRIAL_SEEDS, Measure
from membench.training.checkpoint import FILE
from membench.training.runs.jobs import part_of
from membench.training.runs.protocol import CaseTrained, TrainCase
from membench.training.runs.runner import TrainingRunner
from membench.training.runs.slots import WORKER, Share

LONG = TINY.replace("stop: {steps: 6}", "stop: {steps: 100}, checkpoint_seconds: 0.1").replace("seeds: 3", "seeds: 2")
LONG = LONG.replace(
    "tuning: {learning_rates: [0.003, 0.01], table_learning_rates: [0.01], widenings: 0}", "clip_norm: 1.0"
)


def test_trials_choose_rates_and_seeds_are_the_rounds(scenario_file, tmp_path):
    done = run("run", scenario_file(TINY), "--output", str(tmp_path / "out"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "10 training runs" in done.stderr and "left" in done.stderr
    assert "compared at" in done.stdout and "Differences of arms, paired by seed" in done.stdout
    result = one_result(tmp_path / "out")
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".json"], "no journal, no checkpoint is left"
    for record in result.cases:
        assert record.status == "ok" and [r.number for r in record.rounds] == [0, 1, 2]
        assert len(record.trials) == 2 and all(trial.seed == TRIAL_SEEDS for trial in record.trials)
        best = min(record.trials, key=lambda trial: trial.final["answer_nll"])
        assert all(r.rates == best.rates for r in record.rounds)
        assert all(len(r.curve) == 2 and r.curve[-1].step == 6 and r.threads for r in record.rounds)
        assert record.metrics["answer_nll_low"] < record.metrics["answer_nll"] < record.metrics["answer_nll_high"]
        assert record.metrics["mfu"] > 0
        assert all(r.data["facts"] == 64 for r in record.rounds)
        assert record.planned["learning"]["flops"] == record.metrics["training_flops"]
    assert {each.metric for each in result.differences} >= {"answer_nll", "em"}
    assert len(membench.read_results(str(tmp_path / "out" / "*.json"), per="point")) == 2 * 3 * 2


def test_a_run_that_was_killed_goes_on_where_it_was_and_comes_to_the_same(scenario_file, tmp_path):
    """Of two arms, the second is cut off: long enough that it is not over before it is killed."""
    words = [sys.executable, "-m", "membench", "run", scenario_file(LONG), "--device", "cpu"]
    for override in ("measure.at_once=1", "training.seeds=1", "training.stop.steps=200"):
        words += ["--set", override]
    whole = subprocess.run([*words, "--output", str(tmp_path / "whole"), "--json"], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    cut = tmp_path / "cut"
    process = subprocess.Popen([*words, "--output", str(cut)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"[1/"):
            break
    deadline = time.monotonic() + 60
    while not [*cut.glob("*.runs/*/*")] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    (journal,) = cut.glob("*.partial.jsonl")
    kept = Journal.read(journal)[0]
    assert sum(map(len, kept.rounds.values())) == 1
    again = subprocess.run([*words, "--output", str(cut), "--resume", "--json"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    first, second = one_result(tmp_path / "whole"), one_result(cut)
    for one, other in zip(first.cases, second.cases, strict=True):
        nlls = [[r.final["answer_nll"] for r in record.rounds] for record in (one, other)]
        assert nlls[0] == nlls[1], "to the last bit"
    assert not [*cut.glob("*.runs")]


def test_ctrl_c_keeps_what_is_finished(scenario_file, tmp_path):
    words = [sys.executable, "-m", "membench", "run", scenario_file(LONG), "--device", "cpu"]
    process = interruptible.start(
        [*words, "--output", str(tmp_path), "--json"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"[1/"):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(out)["results"][0]["result"]
    assert found["run"]["interrupted"] and sum(len(case["rounds"]) for case in found["cases"]) >= 1
    assert not [name for name in os.listdir("/proc") if name.isdigit() and _is_child(name, process.pid)]


def _is_child(name, parent):
    try:
        with open(f"/proc/{name}/stat") as stream:
            return int(stream.read().rsplit(")", 1)[1].split()[1]) == parent
    except OSError:
        return False


def test_a_file_that_cannot_be_read_ends_a_run_before_it_begins(scenario_file, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"na\xefve")
    words = ["--set", f"task={{kind: text, files: [{bad}]}}"]
    done = run("run", scenario_file(TINY), "--output", str(tmp_path / "out"), "--device", "cpu", *words)
    assert done.returncode == 2
    assert done.stderr == f"membench: {bad}: line 1: is no UTF-8 text: byte 0xef at column 3\n"
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


def test_an_arm_that_cannot_be_trained_says_why_and_the_others_go_on(scenario_file, tmp_path):
    words = ["--set", "training.stop={joules: 1}", "--set", "training.seeds=1", "--set", "training.tuning=null"]
    done = run("run", scenario_file(TINY), "--output", str(tmp_path / "out"), "--device", "cpu", *words)
    result = read_result(next((tmp_path / "out").glob("*.json")))
    for record in result.cases:
        if record.status != "ok":  # a machine may have a counter
            assert "no energy counter of this device can be read" in (record.reason or "")
            assert done.returncode == 5


def test_a_run_whose_checkpoint_is_damaged_begins_anew_and_one_without_room_for_any_is_trained(tmp_path):
    damaged, nowhere = tmp_path / "damaged", tmp_path / "file" / "none"
    damaged.mkdir()
    (damaged / FILE).write_bytes(b"half of one")
    (tmp_path / "file").write_text("")
    (case, _), _ = cases_of("training.tuning=null")
    known = {"matmul_flops_per_s": 1e9, "matmul_dtype": "float32"}
    with ChildProcess(WORKER, threads=1, timeout_seconds=60) as process:
        for folder in (damaged, nowhere):
            asked = TrainCase(
                case=case, seed=0, device="cpu", cores=[usable_cores()[0]], folder=str(folder), ceilings=known
            )
            answer = process.ask(asked, CaseTrained)
            assert isinstance(answer, CaseTrained), answer
            assert (answer.trained.status, answer.trained.resumed_at) == ("ok", [])
    assert (damaged / FILE).stat().st_size > 1000 and (tmp_path / "file").read_text() == ""


def test_ab_does_not_train(scenario_file):
    done = run("ab", "HEAD", "HEAD", "--scenario", scenario_file(TINY))
    assert done.returncode == 2 and "membench compare holds them by their seeds" in done.stderr


def cases_of(*overrides):
    plan = tiny_plan(*overrides)
    return [p.case for p in plan.cases], [p.params for p in plan.cases]


def test_small_models_have_a_core_each_and_those_that_stop_by_the_clock_are_alone(monkeypatch):
    monkeypatch.setattr("membench.training.runs.slots.default_threads", lambda: 8)
    monkeypatch.setattr("membench.training.runs.slots.usable_cores", lambda: tuple(range(10, 18)))
    cases, params = cases_of()
    assert Share.of(cases, params, Measure(), "cpu") == Share(8, 1)
    assert Share.of(cases, params, Measure(threads=4), "cpu") == Share(2, 4)
    assert Share.of(cases, params, Measure(at_once=3), "cpu") == Share(3, 1)
    assert Share.of(cases, [10**9], Measure(), "cpu") == Share(1, 8)
    assert Share.of(cases, params, Measure(), "cuda").at_once == 1
    assert Share.of(cases_of("training.stop={seconds: 3}")[0], params, Measure(), "cpu").at_once == 1
    assert Share(2, 4).cores(1) == [14, 15, 16, 17]


def test_what_a_journal_has_is_not_run_again(tmp_path):
    plan = tiny_plan()
    journal = Journal(tmp_path / "x.partial.jsonl")
    runner = TrainingRunner(plan, Measure(), "cpu", journal)
    assert (runner.total, runner.done) == (10, 0)
    id_ = plan.cases[0].id
    journal.add(id_, Round(number=1, started="x", status="diverged", reason="NaN"))
    journal.add(id_, Round(number=2, started="x", status="error", reason="it broke"))
    journal.add_trial(id_, Trial(rates={"learning_rate": 0.01}, seed=TRIAL_SEEDS, status="ok"))
    assert runner.done == 2, "what failed is run again, what diverged is not"
    for rate in (0.003, 0.03, 0.1):
        journal.add_trial(id_, Trial(rates={"learning_rate": rate}, seed=TRIAL_SEEDS, status="ok"))
    assert runner.total - runner.done == 7, "trials of a grid that was widened are no other arm's runs"


def test_a_share_of_a_budget_is_at_least_a_step():
    assert part_of(Stop(steps=9), 0.5).steps == 4
    assert part_of(Stop(steps=1), 0.1).steps == 1
    assert part_of(Stop(flops=1e9), 0.5).flops == 5e8
