"""Which rates are tried, and that every arm gets as many trials as any."""

import math

import pytest
from training_cases import tiny_plan

from membench.learning.grid import Tried, axes_of, best, between, beyond_edge, grid, grid_size
from membench.learning.settings import Stop, Training, Tuning
from membench.results.records import Trial
from membench.scenario.settings import TRIAL_SEEDS
from membench.training.runs.jobs import Job
from membench.training.runs.tuning import choose_rates

TUNING = Training(
    stop=Stop(steps=1),
    tuning=Tuning(learning_rates=(0.01, 0.001), table_learning_rates=(0.1, 1.0, 10.0), balance_weights=(0.5,)),
)


def tried(*points):
    return [Tried({"learning_rate": rate}, nll) for rate, nll in points]


def layer_of(arm, *overrides):
    return next(p.case.layer for p in tiny_plan(*overrides).cases if p.case.arm == arm)


def test_an_arm_has_the_rates_of_what_it_has():
    moe = "arms.moe={layer: moe, num_experts: 4, expert_hidden: 16, top_k: 1}"
    assert axes_of(TUNING, layer_of("dense")) == {"learning_rate": (0.001, 0.01)}
    assert [*axes_of(TUNING, layer_of("memory"))] == ["learning_rate", "table_learning_rate"]
    assert [*axes_of(TUNING, layer_of("moe", moe))] == ["learning_rate", "balance_weight"]
    assert [*axes_of(TUNING, layer_of("moe", moe, "arms.moe.balancing=none"))] == ["learning_rate"]
    assert grid_size(TUNING, layer_of("memory")) == 6
    assert len(grid(axes_of(TUNING, layer_of("memory")))) == 6
    frozen = TUNING.model_copy(update={"frozen_tables": True})
    assert [*axes_of(frozen, layer_of("memory"))] == ["learning_rate"], "a frozen table has no rate to choose"
    assert grid_size(TUNING.model_copy(update={"tuning": None}), layer_of("memory")) == 0


def test_the_best_is_the_lowest_and_a_diverged_one_never():
    assert best(tried((1.0, math.inf), (0.1, 3.0), (0.2, 2.0))).rates == {"learning_rate": 0.2}


@pytest.mark.parametrize(
    ("points", "next_"),
    [
        ([(0.1, 3.0), (0.2, 2.0)], 0.4),
        ([(0.1, 1.0), (0.2, 2.0)], 0.05),
        ([(0.1, 3.0), (0.2, 2.0), (0.4, 3.0)], None),
        ([(0.1, 3.0)], 0.2),
        ([(0.1, 3.0), (0.2, 4.0)], 0.05),
        ([(1e308, 3.0), (1e307, 4.0)], None),
    ],
)
def test_a_grid_grows_where_the_best_lies_on_its_edge(points, next_):
    found = beyond_edge(tried(*points))
    assert found == (None if next_ is None else {"learning_rate": pytest.approx(next_)})


def test_more_trials_lie_between_the_best_and_its_neighbours():
    points = tried((0.1, 3.0), (0.4, 2.0), (0.8, 3.0))
    assert between(points) == {"learning_rate": pytest.approx(0.2)}
    again = [*points, *tried((0.2, 2.5))]
    assert between(again)["learning_rate"] == pytest.approx(math.sqrt(0.2 * 0.4), rel=1e-4), "the first of equal gaps"


class Bench:
    """Runs jobs by a formula: the best learning rate is an arm's own."""

    def __init__(self, best_rates, failing=()):
        self.best_rates, self.failing, self.jobs = best_rates, failing, []

    def run(self, jobs: list[Job]) -> None:
        self.jobs += [job for job in jobs if self.found(job) is not None or job.case.arm in self.failing]

    def found(self, job: Job) -> Trial | None:
        arm = job.case.arm
        if arm in self.failing:
            return None
        nll = abs(math.log(job.rates["learning_rate"] / self.best_rates[arm]))
        nll += abs(math.log(job.rates.get("table_learning_rate", 0.02) / 0.02)) / 10
        return Trial(rates=job.rates, seed=job.seed, status="ok", final={"answer_nll": nll})


def test_every_arm_is_given_as_many_trials_on_seeds_of_their_own():
    plan = tiny_plan("training.tuning.widenings=3", "training.tuning.table_learning_rates=[0.01, 0.02, 0.04]")
    bench = Bench({"dense": 0.08, "memory": 0.005})
    chosen = choose_rates(plan.runnable, bench.run, bench.found)
    counts = {arm: sum(job.case.arm == arm for job in bench.jobs) for arm in ("dense", "memory")}
    assert counts["dense"] == counts["memory"] >= 6
    assert all(job.seed >= TRIAL_SEEDS and job.is_trial for job in bench.jobs)
    by_arm = {planned.case.arm: chosen[planned.id] for planned in plan.cases}
    assert by_arm["dense"]["learning_rate"] == pytest.approx(0.08, rel=0.5)
    assert by_arm["memory"]["table_learning_rate"] == 0.02


def test_an_arm_whose_trial_failed_is_given_up():
    plan = tiny_plan()
    bench = Bench({"dense": 0.01}, failing=("memory",))
    chosen = choose_rates(plan.runnable, bench.run, bench.found)
    assert [*chosen] == [p.id for p in plan.cases if p.case.arm == "dense"]


def test_a_job_trains_the_case_with_its_rates_for_its_share():
    moe = "arms.moe={layer: moe, num_experts: 4, expert_hidden: 16, top_k: 1}"
    case = next(p.case for p in tiny_plan(moe).cases if p.case.arm == "moe")
    rates = {"learning_rate": 0.5, "balance_weight": 0.25}
    trained = Job("x", case, rates, TRIAL_SEEDS, share=0.5).trained
    assert (
        trained.training.learning_rate == 0.5 and trained.training.stop.steps == 3 and trained.training.tuning is None
    )
    assert trained.layer.layer.balance_weight == 0.25
    assert Job("x", case, rates, 3).key != Job("x", case, {**rates, "learning_rate": 0.4}, 3).key
