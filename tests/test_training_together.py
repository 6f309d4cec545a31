"""A model that several processes train together, is trained as by one: weights, curve and answers."""

from functools import partial

import pytest
import ranks
import training_checks as checks
from small_task import settings_of

from membench.errors import UsageError
from membench.learning.shared import check_shared

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

# runs that are interrupted, and go on
EACH_STEP = {"steps": 6, "checkpoint_seconds": 1e-9}
PIECES = {
    "columns": ("memory", 1, 1, settings_of(table_schedule="same", **EACH_STEP)),
    "rows": ("peer", 2, 1, settings_of(clip_norm=None, **EACH_STEP)),
    "a cut pool": ("memory_plus", 1, 1, settings_of(optimizer="lazy_adam", **EACH_STEP), True),
    "experts": ("moe", 1, 1, settings_of(**EACH_STEP)),
}
# a memory group of two, and data parallel over two or, with matrices cut, all four
ON_FOUR = {
    "a group of two, twice": ("memory", 1, 2),
    "a pool of two, twice, matrices cut": ("memory_plus", 1, 2, None, True),
    "rows and columns": ("memory", 2, 1),
}
STOPS = {
    "seconds": ({"seconds": 6.0}, [2, 4, 6], ("a", "a")),
    "joules of one machine": ({"joules": 12.0}, [2, 4, 6], ("a", "a")),
    "joules of two": ({"joules": 66.0}, [2, 4, 6], ("a", "b")),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    asked = {name: (checks.trains_as_one, check) for name, check in CHECKS.items()}
    asked["balanced"] = checks.balances_as_one, ()
    asked["experts choose"] = partial(checks.trains_as_one, **EXPERT_CHOICE), ("moe", 1, 1)
    for name, check in PIECES.items():
        (folder / name).mkdir()
        asked[f"{name} in pieces"] = checks.goes_on_to_the_bit, (folder / name, *check)
    (folder / "spoilt").mkdir()
    asked["spoilt"] = checks.is_damaged_or_of_another, (folder / "spoilt",)
    asked |= {name: (checks.stops_together, check) for name, check in STOPS.items()}
    asked["no joules"] = checks.knows_no_joules, ()
    return ranks.found_on(2, asked, folder)


@pytest.fixture(scope="module")
def found_on_four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    asked = {name: (checks.trains_as_one, check) for name, check in ON_FOUR.items()}
    (folder / "pieces").mkdir()
    given = (folder / "pieces", "memory_plus", 1, 2, settings_of(**EACH_STEP))
    asked["in pieces"] = checks.goes_on_to_the_bit, given
    return ranks.found_on(4, asked, folder)


@pytest.mark.slow
@pytest.mark.parametrize("check", (*ON_FOUR, "in pieces"))
def test_four_processes_learn_what_one_does(check, found_on_four):
    wrong = {rank: text for rank, text in enumerate(found_on_four[check]) if text is not None}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


MORE = ("balanced", "experts choose", *(f"{name} in pieces" for name in PIECES), "spoilt", *STOPS, "no joules")


@pytest.mark.parametrize("check", (*CHECKS, *MORE))
def test_two_processes_learn_what_one_does(check, found):
    wrong = {rank: text for rank, text in enumerate(found[check]) if text is not None}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"compiled": True}, "training.compiled: should be false"),
        ({}, "training.sequences: 8 cannot be divided evenly among 3 processes: take a multiple of 3"),
        ({"accumulate": 2}, "among 3 processes in 2 parts: take a multiple of 6"),
    ],
)
def test_what_processes_cannot_do_together_is_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        check_shared(settings_of(**settings), 3)
