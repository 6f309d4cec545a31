"""Models that are really trained, gated by the command: a frozen table is found, two runs of the same code are not."""

import json
from typing import cast

import pytest
import torch
from training_cases import Kept, a_run, learnt

from membench.layers.spec import ModelSpec
from membench.planning.planner import make_plan
from membench.results.records import Round, write_result
from membench.running.result_file import assemble
from membench.scenario.scenario import parse_scenario
from membench.training.train import train

PAIR = """schema_version: 1
name: pair
level: training
model: {model_dim: 32, num_blocks: 2, heads: 2, ffn_hidden: 64}
task: {kind: facts, facts: 512, name_symbols: 16, value_symbols: 16, value_pool: 16}
training: {stop: {steps: 120}, sequences: 64, seeds: 5, evaluations: 1, asked: 256, learning_rate: 0.01}
arms:
  memory: {layer: memory, num_keys: 256, heads: 2, top_k: 4, key_dim: 16, at: [0, 1]}
"""
ENVIRONMENT = {"device": {"name": "a processor", "cores": 1, "type": "cpu"}}


@pytest.fixture
def trained(tmp_path):
    """Trains the arm on five seeds and writes the result file of it."""

    def write(day: int, *overrides: str, first: int = 0):
        plan = make_plan(parse_scenario(PAIR, "pair.yaml", overrides), available_bytes=2**34)
        (planned,) = plan.cases
        case = planned.case
        assert case.task is not None and case.training is not None
        rounds = []
        for seed in range(first, first + case.training.seeds):
            spec = cast(ModelSpec, case.layer)
            found = train(spec, case.task, case.training, seed, device="cpu", folder=None, report=lambda *_: None)
            left = found.model_dump(include={"status", "reason", "final", "data"})
            rounds.append(Round(number=seed, started="2026-11-28T12:00:00Z", curve=found.curve, **left))
        run = a_run(source="pair.yaml", started=f"2026-11-{day:02}T12:00:00Z")
        path = tmp_path / f"{day}.json"
        write_result(assemble(plan, run, ENVIRONMENT, Kept({planned.id: rounds})), path)
        return path

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield write
    torch.set_num_threads(threads)


def test_a_frozen_table_is_found_and_two_runs_of_the_same_code_are_not(call, trained):
    def compared(*files):
        code, out, _ = call("compare", *files, "--json")
        (case,) = json.loads(out)["comparisons"][0]["cases"]
        return code, {each["metric"]: (each["verdict"], each["reason"]) for each in case["metrics"]}

    base = trained(1)
    code, verdicts = compared(base, trained(2, "training.frozen_tables=true"))
    verdict, reason = verdicts["answer_nll"]
    assert verdict == "WORSE" and reason.startswith("5 paired seeds") and "frozen_tables" in reason, verdicts
    assert code == 1
    code, verdicts = compared(base, trained(3, first=100))  # other seeds: the same ones give the same to the bit
    assert code == 0, verdicts
    assert verdicts["answer_nll"][1].startswith("seeds 5 against 5")


def test_arms_of_one_trained_file_are_told_apart_by_the_report(call, tmp_path):
    path = tmp_path / "a.json"
    write_result(learnt({"dense": [3.0, 3.2, 3.1], "memory": [2.0, 2.2, 2.1]}), path)
    code, _, err = call("compare", "--within", path)
    assert code == 2 and "membench report tells its arms apart by their seeds" in err
