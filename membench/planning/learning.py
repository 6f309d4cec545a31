"""What the runs of a trained case will be: steps, tokens, FLOPs; and how many there are."""

import math

from membench.case import Case
from membench.layers.spec import Step
from membench.learning.grid import grid_size
from membench.learning.settings import Stop, Training
from membench.planning.fit import Work
from membench.planning.plan import PlannedLearning


def planned_learning(work: Work, case: Case, training: Training) -> PlannedLearning:
    """The runs of one case; what a budget of seconds or joules will buy is not known."""
    tokens_of_step, sequences = (each * case.ranks for each in (case.tokens, case.sequences))
    step = Step(tokens_of_step, "forward_backward", sequences=sequences)
    flops_of_step = work.arm.spec.cost(step).flops  # as the loop counts them: of the whole model
    steps = steps_within(training.stop, tokens_of_step, flops_of_step)
    return PlannedLearning(
        tokens_of_step=tokens_of_step,
        flops_of_step=flops_of_step,
        steps=steps,
        tokens=None if steps is None else float(steps * tokens_of_step),
        flops=None if steps is None else steps * flops_of_step,
        first_seed=work.point.workload.seed,
        seeds=training.seeds,
        trials=0 if training.tuning is None else grid_size(training, case.layer) * training.tuning.seeds,
    )


def steps_within(stop: Stop, tokens_of_step: int, flops_of_step: float) -> int | None:
    """How many updates a budget is for; None where only a clock or a meter says when it is spent."""
    of_step = {"steps": 1.0, "tokens": float(tokens_of_step), "flops": flops_of_step}.get(stop.at)
    return None if of_step is None else max(1, math.ceil(stop.amount / of_step * (1 - 1e-12)))
