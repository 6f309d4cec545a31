"""A model that several processes train together, its pool cut over them and its matrices under FSDP2."""

import pytest
import ranks
import training_checks as checks
from small_task import settings_of

from membench.errors import UsageError
from membench.training.group import Together

CHECKS = ("memory", 1, 1), ("memory_plus", 1, 1), ("memory_plus", 2, 1), ("memory_plus", 1, 2), ("moe_loss", 1, 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    asked = {str(check): (checks.trains_as_one, (*check, folder)) for check in CHECKS}
    asked["balanced"] = checks.balances_as_one, (folder,)
    return ranks.found_on(2, asked, folder)


@pytest.mark.parametrize("check", (*CHECKS, "balanced"), ids=str)
def test_two_processes_learn_what_one_does(check, found):
    wrong = {rank: text for rank, text in enumerate(found[str(check)]) if text is not None}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stop": {"seconds": 5.0}}, "stop at steps, tokens or flops"),
        ({"compiled": True}, "is not compiled"),
    ],
)
def test_what_processes_cannot_do_together_is_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        Together().check(settings_of(**settings), None)


def test_checkpoints_of_a_run_are_refused(tmp_path):
    with pytest.raises(UsageError, match="would all write one file"):
        Together().check(settings_of(), tmp_path)
