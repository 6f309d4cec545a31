"""How a training step grows with the table, and in which stages.

The query projection costs the same whatever the table's size. Scores, top-k and the keys' update go over
n = sqrt(N) sub-keys a half. Rows cost what the distinct ones among them do, and of those there are never more than
lookups.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.memory_step_parts.against_public import INPUTS
from benchmarks.memory_step_parts.answers import Answer, Findings, Sizes
from benchmarks.memory_step_parts.processes import short_of_memory
from benchmarks.memory_step_parts.turns import take_turns, timed
from membench.layers.factory import build
from membench.layers.optim.layer_optimizer import LayerOptimizer
from membench.layers.spec.quantities import format_num_keys
from membench.measuring.inputs import Input
from membench.measuring.step import make_step
from membench.measuring.time import StepCall
from membench.measuring.traffic import count_traffic
from membench.profiler.stage_clock import StageClock
from membench.profiler.stage_times import followed, mean_of_middle, observed
from membench.results.profile import StageKey

_GOAL = 2.5


@dataclass(slots=True)
class _Trained:
    """One size: its step, the same observed, and what was observed so far."""

    step: StepCall
    watched: StepCall
    clock: StageClock
    unique_rows: float | None
    stages: list[dict[StageKey, float]] = field(default_factory=list)

    def observe(self, number: int) -> float:
        self.watched(number)
        found = self.clock.seconds()
        self.stages.append(found)
        return sum(found.values())


def measure_growth(sizes: Sizes) -> Findings:
    """All sizes in turns, as they are and then observed."""
    question = "train_step, {} over {} keys".format(*map(format_num_keys, (sizes.key_counts[-1], sizes.key_counts[0])))
    if reason := short_of_memory(1.05 * sum(map(sizes.table_bytes, sizes.key_counts)) + 2**30):
        return Findings([Answer(question, goal=_GOAL, at_most=True, reason=reason)])
    batches = [torch.randn(sizes.tokens, sizes.model_dim) for _ in range(INPUTS)]
    trained = {format_num_keys(count): _trained(sizes, count, batches) for count in sizes.key_counts}
    seconds = take_turns({name: timed(size.step) for name, size in trained.items()}, sizes.quick_rounds)
    take_turns({name: size.observe for name, size in trained.items()}, sizes.quick_rounds)
    smallest, *_, largest = trained
    answer = Answer.of_times(
        question, seconds[largest], seconds[smallest], (largest, smallest), goal=_GOAL, at_most=True
    )
    stages = {name: mean_of_middle(size.stages[-sizes.quick_rounds :]) for name, size in trained.items()}
    facts = {
        name: {
            "seconds": seconds[name],
            "unique_rows": size.unique_rows,
            "stages_ms": {_name(key): 1e3 * taken for key, taken in stages[name].items()},
        }
        for name, size in trained.items()
    }
    return Findings([answer], facts, _table(facts))


def _trained(sizes: Sizes, num_keys: int, batches: list[torch.Tensor]) -> _Trained:
    spec = sizes.spec(num_keys)
    layer, inputs, dy = build(spec), [Input(x, None) for x in batches], torch.randn_like(batches[0])
    optimizer = LayerOptimizer(layer, "row_adagrad", 0.0)

    def step_of(call: Any) -> StepCall:
        return make_step("train_step", call, layer, inputs, dy, optimizer)

    clock = StageClock("cpu")
    watched = observed(step_of(followed(layer, clock)), clock)
    return _Trained(step_of(layer), watched, clock, count_traffic(layer, inputs).unique_rows)


def _name(key: StageKey) -> str:
    return f"{key.name} backward" if key.backward else key.name


def _table(facts: dict[str, Any]) -> list[str]:
    """Milliseconds by stage, a column a size, and what each grew by from the first size to the last."""
    stages = [each["stages_ms"] for each in facts.values()]
    rows = {name: [each.get(name, 0.0) for each in stages] for each in stages for name in each}
    rows["all stages"] = [sum(each.values()) for each in stages]
    lines = [f"{'ms of an observed step, at so many keys':40}{''.join(f'{size:>10}' for size in facts)}{'growth':>10}"]
    for name, row in rows.items():
        lines.append(f"{name:40}{''.join(f'{ms:10.2f}' for ms in [*row, row[-1] - row[0]])}")
    unique = "".join(f"{each['unique_rows']:10.0f}" for each in facts.values())
    return [*lines, f"{'distinct rows read':40}{unique}"]
