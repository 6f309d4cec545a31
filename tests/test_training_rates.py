"""Rates over the budget, as the updates of matrices and rows see them."""

import pytest
from small_task import run_of, settings_of

from membench.training.rates import rate_at


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("cosine", {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.55, 1: 0.1, 1.3: 0.1}),
        ("linear", {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.55, 0.8: 0.325, 1: 0.1}),
        ("constant", {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 1, 1: 1}),
    ],
)
def test_a_warm_up_then_a_decay_over_the_budget(schedule, at):
    settings = settings_of(schedule=schedule, warmup_share=0.2, final_rate=0.1)
    for spent, rate in at.items():
        assert rate_at(settings, spent) == pytest.approx(rate), spent


def test_without_a_warm_up_it_begins_at_its_peak():
    assert rate_at(settings_of(warmup_share=0), 0) == 1


@pytest.mark.parametrize("table_schedule", ["constant", "same"])
@pytest.mark.parametrize("kind", ["memory_plus", "peer"])
def test_updates_see_the_rate_of_what_was_spent_before_them(kind, table_schedule):
    settings = settings_of(
        8, warmup_share=0.25, schedule="linear", final_rate=0, table_learning_rate=0.5, table_schedule=table_schedule
    )
    run, seen = run_of(kind, settings), []

    def watched(optimizer, *_):
        seen.append([optimizer.param_groups[0]["lr"], *(table.rule.learning_rate for table in optimizer.tables)])

    run.optimizer.register_step_pre_hook(watched)
    run.finish(lambda *_: None)
    shares = [0, 0.5, *(1 - number / 6 for number in range(6))]
    assert [row[0] for row in seen] == pytest.approx([0.01 * share for share in shares])
    of_tables = [0.5 * share for share in shares] if table_schedule == "same" else [0.5] * 8
    for rates in zip(*(row[1:] for row in seen), strict=True):
        assert rates == pytest.approx(of_tables)
    assert len(seen[0]) == (3 if kind == "peer" else 2)
