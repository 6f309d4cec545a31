"""Layers that several processes share are the layers that one has alone, and send what is counted."""

import dense_checks
import pytest
import ranks
import sharded_checks as checks

TABLES = ("memory", "memory_plus", "peer")
EXPERTS = ("token_choice", "bias", "expert_choice")
# by number of processes: row shards and replicas
CUTS = {1: ((1, 1),), 2: ((1, 1), (2, 1), (1, 2)), 4: ((1, 1), (4, 1), (2, 1), (1, 2), (2, 2))}
RULES = (("sgd", True), ("row_adagrad", True), ("row_adam", False), ("lazy_adam", True), ("adamw", False))


def checks_on(world):
    found = {}
    for kind in (*TABLES, *EXPERTS):
        for rows, replicas in CUTS[world]:
            if rows > 1 and kind in (*EXPERTS, "memory_plus"):  # the table of memory_plus is that of memory
                continue
            cut = f"{kind}-{rows}-row-shards-{replicas}-replicas"
            found[f"same-{cut}"] = checks.same_as_whole, (kind, rows, replicas, checks.UNEVEN)
            for rule, fused in RULES if (kind, rows, replicas) == ("memory", world // 2, 1) else RULES[1:2]:
                arguments = (kind, rows, replicas, rule, fused and replicas == 1)
                found[f"trains-{rule}-{cut}"] = checks.trains_as_whole, arguments
            if replicas == 1:
                found[f"sends-{cut}"] = checks.sends_as_counted, (kind, rows, "row_adagrad")
    for kind in (*TABLES, *EXPERTS) if world == 2 else ():
        for rows in (1, 2) if kind in TABLES else (1,):
            for spoiled in (False, True):
                found[f"verified-{kind}-{rows}-row-shards-{spoiled}"] = checks.is_verified, (kind, rows, 1, spoiled)
    if world == 2:
        for way in ("replicas", "fsdp", "tensor"):
            for spoiled in (False, True):
                copies = 2 if way == "replicas" else 1
                found[f"verified-dense-{way}-{spoiled}"] = checks.is_verified, ("dense", 1, copies, spoiled, way)
    for kind in ("memory", "peer"):
        if world > 1:
            found[f"alone-{kind}"] = checks.share_alone_is_the_real_one, (kind,)
    for way in dense_checks.WAYS:
        for replicas in (1, 2)[: 1 + (world == 4)]:
            for counts in (checks.UNEVEN, (3,) * 4):
                at = f"{way}-{replicas}-replicas-{counts[1]}"
                found[f"same-dense-{at}"] = dense_checks.same_as_whole, (way, replicas, counts)
            found[f"trains-dense-{at}"] = dense_checks.trains_as_whole, (way, replicas, checks.UNEVEN)
        found[f"sends-dense-{way}"] = dense_checks.sends_as_counted, (way,)
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
