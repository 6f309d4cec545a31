"""A model that several processes train together, is trained as by one: weights, curve and answers."""

from functools import partial

import pytest
import ranks
import training_checks as checks
from small_task import settings_of

from membench.errors import UsageError
from membench.learning.shared import check_shared
from membench.training.group import Together

EXPERT_CHOICE = {"layer": {"kind": "moe", "num_experts": 4, "expert_hidden": 16, "top_k": 1, "choice": "expert"}}
# kind of layer, row shards and replicas, and what else is said of the run
CHECKS = {
    "memory by columns": ("memory", 1, 1),
    "memory by rows": ("memory", 2, 1, settings_of(clip_norm=None)),
    "a pool by columns, matrices cut": ("memory_plus", 1, 1, settings_of(accumulate=2), True),
    "a pool of replicas": ("memory_plus", 1, 2),
    "peer by columns": ("peer", 1, 1),
    "experts": ("moe_loss", 1, 1),
    "experts, matrices cut": ("moe", 1, 1, None, True),
    "dense replicas": ("dense", 1, 2),
    "dense, matrices cut": ("dense", 1, 1, None, True),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    asked = {name: (checks.trains_as_one, check) for name, check in CHECKS.items()}
    asked["balanced"] = checks.balances_as_one, ()
    asked["experts choose"] = partial(checks.trains_as_one, **EXPERT_CHOICE), ("moe", 1, 1)
    return ranks.found_on(2, asked, folder)


@pytest.mark.parametrize("check", (*CHECKS, "balanced", "experts choose"))
def test_two_processes_learn_what_one_does(check, found):
    wrong = {rank: text for rank, text in enumerate(found[check]) if text is not None}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stop": {"seconds": 5.0}}, "training.stop.seconds: seconds are not counted alike by 3 processes"),
        ({"compiled": True}, "training.compiled: should be false"),
        ({}, "training.sequences: 8 cannot be divided evenly among 3 processes: take a multiple of 3"),
        ({"accumulate": 2}, "among 3 processes in 2 parts: take a multiple of 6"),
    ],
)
def test_what_processes_cannot_do_together_is_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        check_shared(settings_of(**settings), 3)


def test_checkpoints_of_a_run_are_refused(tmp_path):
    with pytest.raises(UsageError, match="would all write one file"):
        Together().check(settings_of(), tmp_path)
