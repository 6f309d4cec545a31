"""A scenario of level training on two ranks: one is lost, the run goes on, and it is that of one process."""

import signal
import subprocess
import sys
from itertools import pairwise

import pytest
import ranks
import torch
import torch.distributed as dist
from small_task import without_times
from test_run import one_result
from test_shared_layers import RANKS, children_of, free_port, is_there, rank_of, wait_for

import membench
from membench.errors import UsageError
from membench.gate.comparison import compare_group
from membench.gate.result_set import group_results, load_results
from membench.gate.thresholds import load_thresholds
from membench.planning.planner import make_plan
from membench.report.page import page, run_views
from membench.results.records import Trial
from membench.running.journal import Journal
from membench.scenario.scenario import parse_scenario
from membench.tables.results import how_measured
from membench.training.shared_case import group_of
from membench.training.train import train
from membench.training.trained import Trained

SCENARIO = """schema_version: 1
name: together
level: training
model: {model_dim: 32, num_blocks: 2, heads: 2, ffn_hidden: 64}
task: {kind: facts, facts: 64, name_symbols: 16, value_symbols: 16, value_pool: 16}
training:
  {stop: {steps: 20}, sequences: 16, seeds: 1, evaluations: 4, asked: 64, checkpoint_seconds: 0.001,
   tuning: {learning_rates: [0.01], table_learning_rates: [0.02], widenings: 0, share: 0.2}}
arms:
  memory: {layer: memory, num_keys: 256, heads: 2, top_k: 4, key_dim: 16, at: [1]}
measure: {timeout_seconds: 100}
"""
KINDS = {
    "dense": "layer: dense",
    "memory": "layer: memory, num_keys: 256, top_k: 4, key_dim: 16, at: [1]",
    "peer": "layer: peer, num_keys: 256, top_k: 4, key_dim: 16, at: [1]",
    "moe": "layer: moe, num_experts: 4, expert_hidden: 16, top_k: 1, at: [1]",
}


def membench_run(*words):
    return subprocess.run([sys.executable, "-m", "membench", *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def lost_and_resumed(tmp_path_factory):
    """What was left when a rank was killed in the midst of the seed; and the folder with the result once it went on."""
    folder = tmp_path_factory.mktemp("together")
    scenario, results = folder / "together.yaml", folder / "results"
    scenario.write_text(SCENARIO)
    words = ["run", str(scenario), "--device", "cpu", "--output", str(results)]
    logs, port = [folder / f"{rank}.log" for rank in range(RANKS)], free_port()
    first, second = (rank_of(rank, words, port, log) for rank, log in enumerate(logs))
    wait_for(lambda: "[1/2" in logs[0].read_text() or first.poll() is not None)
    begun = "*.runs/memory-*-0/checkpoint.pt"
    wait_for(lambda: [*results.glob(begun)] or first.poll() is not None)
    workers = [child for rank in (first, second) for child in children_of(rank)]
    second.send_signal(signal.SIGKILL)
    code = first.wait(60)
    second.wait()
    (journal,) = results.glob("*.partial.jsonl")
    left = {"code": code, "log": logs[0].read_text(), "trials": Journal.read(journal)[0].trials}
    left["kept"] = [path.parent.name for path in results.glob(begun)]
    wait_for(lambda: not any(map(is_there, workers)), 10)
    again = membench_run(*words, "--resume", "--nproc", RANKS)
    assert again.returncode == 0, again.stderr
    return left, results


def test_a_rank_that_is_lost_ends_the_run_in_one_line_and_what_is_finished_is_kept(lost_and_resumed):
    left, results = lost_and_resumed
    assert left["code"] == 5
    (line,) = [line for line in left["log"].splitlines() if line.startswith("membench:")]
    assert line.startswith("membench: rank 1 of 2 on ") and "has ended" in line
    assert "Traceback" not in left["log"]
    ((trial,),) = left["trials"].values()
    (record,) = one_result(results).cases
    assert isinstance(trial, Trial) and record.trials == [trial], "it was not made again"
    assert [path.suffix for path in results.iterdir()] == [".json"], "no journal and no checkpoint is left"


def trained_without_harm(case, rates, seed, threads, file):
    """The same run on as many ranks, which nothing interrupts."""
    torch.set_num_threads(threads)
    given = case.training.model_copy(update={**rates, "tuning": None})
    how = {"device": "cpu", "folder": None, "report": lambda *_: None, "group": group_of(case, "cpu")}
    trained = train(case.layer, case.task, given, seed, **how)
    if dist.get_rank() == 0:
        file.write_text(trained.model_dump_json())


def test_a_run_that_a_rank_was_lost_from_goes_on_where_it_was(lost_and_resumed, tmp_path):
    """To the bit: its curve is that of a run that nothing has happened to."""
    left, results = lost_and_resumed
    assert len(left["kept"]) == 1
    (record,) = one_result(results).cases
    (found,) = record.rounds
    (at,) = found.ran["resumed_at"]
    assert 0 < at < 20
    file = tmp_path / "trained.json"
    asked = {"whole": (trained_without_harm, (record.case, found.rates, 0, found.threads, file))}
    assert ranks.found_on(RANKS, asked, tmp_path) == {"whole": [None] * RANKS}
    wanted = Trained.model_validate_json(file.read_text())
    assert without_times(found) == without_times(wanted)


def test_the_record_says_who_trained_and_is_read_as_any_other(lost_and_resumed, tmp_path):
    _, results = lost_and_resumed
    result = one_result(results)
    (record,) = result.cases
    (found,) = record.rounds
    assert (record.status, record.case.shared_by, record.case.ranks) == ("ok", "columns", RANKS)
    assert (record.case.sequences, record.case.tokens) == (8, 8 * 4), "of each rank"
    assert [rank["rank"] for rank in found.ranks] == [0, 1]
    assert len({rank["host"] for rank in found.ranks}) == 1
    assert found.rates == {"learning_rate": 0.01, "table_learning_rate": 0.02}
    final = found.final
    assert final["tokens"] == 20 * 16 * 4, "of all ranks"
    assert final["tokens_per_s"] == final["tokens"] / final["seconds"]
    assert final["flops"] == record.planned["learning"]["flops"] == record.metrics["training_flops"]
    assert final["joules"] is None
    assert 0 < final["rows_used_share"] <= 1
    assert "trained by 2 ranks together on 1 host" in how_measured(result)
    (path,) = results.glob("*.json")
    frame = membench.read_results([path], per="point")
    assert list(frame["step"]) == [5, 10, 15, 20]
    assert "trained by 2 ranks" in page(run_views([(str(path), result)]))
    same = tmp_path / "same.json"
    same.write_text(path.read_text())
    (group,) = group_results(load_results([path, same]), None, every=False)
    (comparison,) = compare_group(group, load_thresholds(None))
    assert [each.id for each in comparison.cases] == [record.id]


def test_the_curve_is_that_of_one_process(lost_and_resumed):
    _, results = lost_and_resumed
    (record,) = one_result(results).cases
    (found,) = record.rounds
    given = record.case.training.model_copy(update={**found.rates, "tuning": None})
    alone = train(record.case.layer, record.case.task, given, 0, device="cpu", folder=None, report=lambda *_: None)
    assert len(found.curve) == len(alone.curve) == 4
    for one, other in zip(alone.curve, found.curve, strict=True):
        assert (one.step, one.tokens, one.flops) == (other.step, other.tokens, other.flops)
        numbers = [[p.loss, p.gradient_norm, p.metrics["answer_nll"], p.metrics["em"]] for p in (other, one)]
        torch.testing.assert_close(*map(torch.tensor, numbers), rtol=1e-4, atol=1e-5)
    assert all(later.loss < earlier.loss for earlier, later in pairwise(alone.curve))


def plan_of(arm, *overrides, ranks=RANKS):
    text = SCENARIO.replace("layer: memory, num_keys: 256, heads: 2, top_k: 4, key_dim: 16, at: [1]", KINDS[arm])
    text = text.replace("  memory: {", f"  {arm}: {{")
    return make_plan(parse_scenario(text, "together.yaml", overrides), available_bytes=2**34, processes=ranks)


@pytest.mark.parametrize(
    ("arm", "stated", "way"),
    [
        ("dense", None, "replicas"),
        ("dense", "fsdp", "fsdp"),
        ("memory", None, "columns"),
        ("memory", "rows", "rows"),
        ("peer", None, "columns"),
        ("moe", None, "experts"),
    ],
)
def test_each_kind_has_its_ways_and_a_case_of_its_own_for_each(arm, stated, way):
    overrides = [] if stated is None else [f"arms.{arm}.shared_by={stated}"]
    alone, (shared,) = plan_of(arm, ranks=None).cases[0], plan_of(arm, *overrides).cases
    assert (shared.case.shared_by, shared.case.ranks, shared.skipped) == (way, RANKS, None)
    assert alone.case.shared_by is None and "shared_by" not in alone.case.as_json()
    assert shared.learning == alone.learning, "the same steps, tokens and FLOPs"
    assert len({alone.id, shared.id, plan_of(arm, *overrides, ranks=4).cases[0].id}) == 3
    assert shared.rank_params < alone.rank_params or way == "replicas"
    assert sum(shared.communication_bytes.values()) > 0


@pytest.mark.parametrize(
    ("arm", "override", "says"),
    [
        ("dense", "arms.dense.shared_by=tensor", "arms.dense.shared_by: a dense layer in a model cannot be shared by"),
        ("memory", "arms.memory.shared_by=fsdp", "cannot be shared by fsdp: columns or rows"),
        ("moe", "every_arm.shared_by=rows", "arms.moe.shared_by: a moe layer in a model cannot be shared by rows"),
        ("memory", "arms.memory.shared_by=halves", "no layer is shared by 'halves'; known are columns, experts"),
        ("dense", "training.sequences=7", "training.sequences: 7 cannot be divided evenly among 2 processes"),
        ("dense", "training.compiled=true", "training.compiled: should be false"),
        ("dense", "measure.at_once=2", "measure.at_once: should be 1, not 2"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(arm, override, says):
    with pytest.raises(UsageError) as caught:
        plan_of(arm, override)
    assert str(caught.value).startswith("together.yaml: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("budget", ["seconds: 5", "joules: 5"])
def test_time_and_energy_are_budgets_of_ranks_too(budget):
    (shared,) = plan_of("memory", f"training.stop={{{budget}}}").cases
    assert shared.skipped is None and shared.case.training.stop.at == budget.split(":")[0]


def test_a_plan_of_arms_that_are_shared_asks_how_many_ranks_or_is_told_by_the_scenario():
    stated = "arms.memory.shared_by=rows"
    with pytest.raises(UsageError, match=r"arms\.memory\.shared_by: ranks share this layer: say how many"):
        plan_of("memory", stated, ranks=None)
    assert plan_of("memory", stated, "fit.ranks=4", ranks=None).cases[0].case.ranks == 4
