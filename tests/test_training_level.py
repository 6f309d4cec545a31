"""Scenarios of level training: what is read and refused, sizes by name, what is planned."""

import pytest
from training_cases import TINY, tiny_plan

from membench.case import Case
from membench.errors import UsageError
from membench.layers.spec import ModelSpec
from membench.learning.settings import Stop
from membench.planning.learning import steps_within
from membench.scenario.scenario import load_scenario, parse_scenario
from membench.tables.plan import plan_tables


def case_of(arm: str, *overrides: str) -> Case:
    return next(planned.case for planned in tiny_plan(*overrides).cases if planned.case.arm == arm)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.kind=fact", "task.kind: no task is 'fact'; did you mean 'facts'?"),
        ("task={facts: 3}", "task.kind: is missing; known are arithmetic, copy"),
        ("task.fact=3", "task.fact: unknown key; did you mean 'facts'?"),
        ("task.facts=many", "task.facts: should be a valid integer, not 'many'"),
        ("task.value_pool=17", "task: value_pool 17 should be at most value_symbols 16"),
        ("training.stop={}", "training.stop: should state one of steps, tokens, flops, seconds, joules, not none"),
        ("training.stop={steps: 3, tokens: 4}", "not steps and tokens"),
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("training.tuning.learning_rates=[]", "training.tuning.learning_rates: should not be empty"),
        ("arms.dense.training=3", "arms.dense.training: should be a mapping such as {learning_rate: 0.01}, not 3"),
        ("arms.dense.training.stop.steps=3", "arms.dense.training.stop: is the same for every arm"),
        ("arms.dense.training.rate=3", "arms.dense.training.rate: unknown key"),
        ("every_arm.training={}", "every_arm.training: no arm has this key"),
        ("model.vocab_size=63", "model.vocab_size: should be at least 64, the tokens of the task, not 63"),
        ("level=model", "task: is for level training, this is model"),
        ("workload.tokens=3", "workload.tokens: is not for level training"),
        ("workload.modes=[decode]", "workload.modes: is not for level training"),
        ("workload.seed=999999", "workload.seed: should be at most 999000"),
        ("measure.rounds=3", "measure.rounds: is not for level training: its rounds are training.seeds"),
        ("fit.ranks=2", "fit.ranks: should be 1, not 2"),
        ("axes={measure.threads: [1, 2]}", "cannot be swept"),
        ("axes={training.seeds: [3, 5]}", "axes.training.seeds: cannot be swept at level training"),
        ("axes={workload.seed: [0, 5]}", "axes.workload.seed: cannot be swept at level training"),
        ("arms.dense.training={learning_rate: 0.1}", "arms.dense.training.learning_rate: is chosen by training.tuning"),
        (
            "arms.memory.training={table_learning_rate: 0.1}",
            "arms.memory.training.table_learning_rate: is chosen by training.tuning, the same for every arm",
        ),
        ("scale=huge", "scale: no scale is 'huge'; known are cpu, large"),
        ("scale=3", "scale: no scale is 3"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(override, said):
    with pytest.raises(UsageError) as caught:
        parse_scenario(TINY, "tiny.yaml", [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_case_says_what_is_learnt_and_how():
    fixed = "training.tuning=null"
    case = case_of("memory", fixed, "arms.memory.training={learning_rate: 0.02, optimizer: row_adagrad}")
    assert (case.level, case.mode, case.optimizer) == ("training", "train_step", "row_adagrad")
    assert case.task is not None and case.task.kind == "facts"
    assert case.training is not None and case.training.learning_rate == 0.02
    assert (case.sequences, case.tokens) == (16, 16 * 4)
    other = case_of("dense", fixed, "arms.memory.training={learning_rate: 0.02}")
    assert other.training is not None and other.training.learning_rate == 0.003


def test_the_vocabulary_is_the_task_s_and_weights_are_float32():
    model = case_of("dense").layer
    assert isinstance(model, ModelSpec)
    assert (model.vocab_size, model.dtype) == (3 * 16 + 16, "float32")
    wider = case_of("dense", "model.vocab_size=100", "dtype=bfloat16").layer
    assert isinstance(wider, ModelSpec)
    assert (wider.vocab_size, wider.dtype) == (100, "bfloat16")
    preset = case_of("dense", "model={preset: tiny}").layer
    assert isinstance(preset, ModelSpec)
    assert preset.vocab_size == 64


def test_a_size_by_name_is_laid_over_the_file_and_what_is_set_over_it():
    def size(*overrides: str) -> tuple[int, int]:
        case = case_of("dense", *overrides)
        return case.task.facts, case.training.seeds  # type: ignore[union-attr]

    assert size() == size("scale=cpu") == (64, 3)
    assert size("scale=large") == (128, 5)
    assert size("training.seeds=7", "scale=large") == (128, 7)


def test_seeds_and_checkpoints_are_not_what_a_case_is():
    before = case_of("dense").id
    assert case_of("dense", "training.seeds=9").id == case_of("dense", "training.checkpoint_seconds=1").id == before
    assert case_of("dense", "workload.seed=40").id == before, "which seeds are taken tells nothing of the case"
    assert len({before, case_of("dense", "training.learning_rate=0.5").id, case_of("dense", "task.facts=65").id}) == 3


def test_a_plan_says_what_a_run_is_and_how_many_there_are():
    dense, memory = (planned.learning for planned in tiny_plan("workload.seed=40").cases)
    assert dense and memory
    assert (dense.steps, dense.tokens, dense.first_seed, dense.seeds, dense.trials) == (6, 6 * 64, 40, 3, 2)
    assert dense.flops == 6 * dense.flops_of_step > 0
    tables = plan_tables(tiny_plan())
    assert "10 runs" in tables[1].caption and "6 steps" in tables[1].caption
    assert [row[0] for row in tables[1].rows] == ["dense", "memory"]
    assert "trials choose" in tables[1].caption
    assert "trials" not in plan_tables(tiny_plan("training.tuning=null"))[1].caption


@pytest.mark.parametrize(
    ("stop", "steps"),
    [({"steps": 7}, 7), ({"tokens": 640}, 10), ({"tokens": 641}, 11), ({"flops": 1e4}, 10), ({"seconds": 9}, None)],
)
def test_steps_within_a_budget(stop, steps):
    assert steps_within(Stop.model_validate(stop), tokens_of_step=64, flops_of_step=1e3) == steps


def test_a_budget_can_be_swept():
    plan = tiny_plan("axes={training.stop: [{steps: 3}, {tokens: 320}]}")
    assert [planned.learning.steps for planned in plan.cases if planned.learning] == [3, 3, 5, 5]


def test_a_model_too_large_is_skipped_whole():
    plan = tiny_plan("fit.memory=1GB")
    assert all("needs" in (planned.skipped or "") and not planned.parts for planned in plan.cases)


TRAINED = [
    "budget_parity",
    "capacity",
    "capacity_entropy",
    "capacity_exposure",
    "energy",
    "long_form",
    "memory_ablation",
    "memory_layer_count",
    "param_balance",
    "replace_one_ffn",
    "task_domains",
    "train_key_scaling",
    "two_hop_pool",
]


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
@pytest.mark.parametrize("name", TRAINED)
def test_shipped_questions_are_planned_at_every_size(name, scale):
    from membench.planning.planner import make_plan

    plan = make_plan(load_scenario(name, [f"scale={scale}"]), available_bytes=2**37)
    assert not [planned.skipped for planned in plan.cases if planned.skipped]
    runs = sum(planned.learning.trials + planned.learning.seeds for planned in plan.cases if planned.learning)
    assert runs <= (80 if scale == "smoke" else 140), "a size is to end within its time"
    assert scale == "smoke" or all(p.learning and p.learning.seeds >= 5 for p in plan.cases)


@pytest.mark.parametrize(("name", "but"), [("capacity", "dense_same_params"), ("replace_one_ffn", "dense_2x")])
def test_arms_that_are_said_to_have_equal_flops_have(name, but):
    plan_of = load_scenario(name)
    from membench.planning.planner import make_plan

    flops = {p.case.arm: p.achieved["flops_per_token"] for p in make_plan(plan_of, available_bytes=2**37).cases}
    wide = flops.pop(but)
    assert all(value == pytest.approx(flops["dense"], rel=0.1) for value in flops.values())
    assert wide > 1.9 * flops["dense"]
