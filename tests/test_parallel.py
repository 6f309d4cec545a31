"""Layers that several processes share are the layers that one has alone, and send what is counted."""

import pytest
import ranks
import sharded_checks as checks

EXPERTS = ("token_choice", "bias", "expert_choice")
# by number of processes: row shards and replicas
CUTS = {1: ((1, 1),), 2: ((1, 1), (2, 1), (1, 2)), 4: ((1, 1), (4, 1), (2, 1), (1, 2), (2, 2))}
RULES = (("sgd", True), ("row_adagrad", True), ("row_adam", False), ("lazy_adam", True), ("adamw", False))


def checks_on(world):
    found = {}
    for kind in (*checks.TABLES, *EXPERTS):
        for rows, replicas in CUTS[world]:
            if rows > 1 and kind in (*EXPERTS, "memory_plus"):  # the table of memory_plus is that of memory
                continue
            cut = f"{kind}-{rows}-row-shards-{replicas}-replicas"
            found[f"same-{cut}"] = checks.same_as_whole, (kind, rows, replicas, checks.UNEVEN)
            for rule, fused in RULES if (kind, rows, replicas) == ("memory", world // 2, 1) else RULES[1:2]:
                arguments = (kind, rows, replicas, rule, fused and replicas == 1)
                found[f"trains-{rule}-{cut}"] = checks.trains_as_whole, arguments
            found[f"sends-{cut}"] = checks.sends_as_counted, (kind, rows, replicas, "row_adagrad")
    for rows in {rows for rows, replicas in CUTS[world] if replicas == 1}:
        found[f"numbers-{rows}-row-shards"] = checks.numbers_rows_as_counted, (rows,)
    found["adds-up"] = checks.adds_up_either_way, ()
    for kind in ("memory", "peer"):
        if world > 1:
            found[f"alone-{kind}"] = checks.share_alone_is_the_real_one, (kind,)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    of_worlds = {}

    def on(world):
        if world not in of_worlds:
            of_worlds[world] = ranks.found_on(world, checks_on(world), tmp_path_factory.mktemp(f"world{world}"))
        return of_worlds[world]

    return on


@pytest.mark.parametrize(("world", "check"), [(world, check) for world in CUTS for check in checks_on(world)])
def test_of_several_processes(world, check, found):
    wrong = {rank: text for rank, text in enumerate(found(world)[check]) if text is not None}
    assert not wrong, "\n".join(f"rank {rank}: {text}" for rank, text in wrong.items())
