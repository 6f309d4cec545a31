"""Small results of level training, made up: what seeds, trials and curves are made of in tests."""

from membench.learning.curve import Point
from membench.planning.planner import make_plan
from membench.results.records import Record, ResultFile, Round, Run, Trial
from membench.running.result_file import assemble
from membench.scenario.scenario import parse_scenario

TINY = """schema_version: 1
name: tiny
level: training
model: {model_dim: 32, num_blocks: 2, heads: 2, ffn_hidden: 64}
task: {kind: facts, facts: 64, name_symbols: 16, value_symbols: 16, value_pool: 16}
training:
  {stop: {steps: 6}, sequences: 16, seeds: 3, evaluations: 2, asked: 64,
   tuning: {learning_rates: [0.003, 0.01], table_learning_rates: [0.01], widenings: 0}}
arms:
  dense: {layer: dense}
  memory: {layer: memory, num_keys: 256, heads: 2, top_k: 4, key_dim: 16, at: [1]}
scales:
  large: {task.facts: 128, training.seeds: 5}
"""


def tiny_plan(*overrides: str):
    return make_plan(parse_scenario(TINY, "tiny.yaml", overrides), available_bytes=2**34)


def a_seed(number: int, nll: float, em: float = 0.5, **more) -> Round:
    """A seed that was trained, with a curve that falls to its NLL."""
    curve = [
        Point(
            step=step,
            tokens=64.0 * step,
            flops=1e6 * step,
            seconds=0.5 * step,
            loss=nll + 2 / step,
            learning_rate=0.01,
            metrics={"answer_nll": nll + 1 / step - 0.1, "em": em * step / 10},
        )
        for step in (1, 5, 10)
    ]
    final = {"answer_nll": nll, "em": em, "tokens": 640.0, "steps": 10.0, "params": 9.0, "joules": 64.0}
    known = {"curve": curve, "final": final, "rates": {"learning_rate": 0.01}, **more}
    return Round(number=number, started="2026-11-28T12:00:00Z", status="ok", **known)


class Kept:
    """What ``assemble`` asks a journal."""

    def __init__(self, rounds: dict[str, list[Round]], trials: dict[str, list[Trial]] | None = None) -> None:
        self.rounds, self.trials = rounds, trials or {}

    def latest(self, id_: str) -> list[Round]:
        return self.rounds.get(id_, [])

    def latest_trials(self, id_: str) -> list[Trial]:
        return self.trials.get(id_, [])


def a_run(**more) -> Run:
    said = dict.fromkeys(("description", "scenario_text", "scenario_hash", "source", "command"), "x")
    said |= {"started": "2026-11-28T12:00:00Z", "membench_version": "0", "device": "cpu", "ranks_reason": "x"}
    return Run(scenario="tiny", overrides=[], method_version=1, ranks=1, rounds=3, **{**said, **more})


def learnt(nlls: dict[str, list[float]], *overrides: str, first: int = 0, trials=None, ems=None) -> ResultFile:
    """A file of the tiny scenario in which these NLLs came of an arm's seeds."""
    plan = tiny_plan(*overrides)
    ids = {planned.case.arm: planned.id for planned in plan.cases}
    rounds = {
        ids[arm]: [a_seed(first + n, nll, (ems or {}).get(arm, 0.5)) for n, nll in enumerate(of)]
        for arm, of in nlls.items()
    }
    environment = {"device": {"name": "a processor", "cores": 2, "type": "cpu"}}
    return assemble(plan, a_run(), environment, Kept(rounds, trials and {ids[arm]: of for arm, of in trials.items()}))


def record_of(result: ResultFile, arm: str) -> Record:
    return next(record for record in result.cases if record.case.arm == arm)
