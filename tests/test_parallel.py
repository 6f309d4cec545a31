"""Layers that several processes share are the layers that one has alone, and send what is counted."""

import itertools

import dense_checks
import pytest
import ranks
import sharded_checks as checks

EXPERTS = ("token_choice", "bias", "expert_choice")
# by number of processes: row shards and replicas
CUTS = {1: ((1, 1),), 2: ((1, 1), (2, 1), (1, 2)), 4: ((1, 1), (4, 1), (2, 1), (1, 2), (2, 2))}
FEWER_CUTS = {1: ((1, 1),), 2: ((1, 1), (2, 1)), 4: ((2, 1), (1, 2))}  # for what depends less on how it is cut
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
    for kind in (*checks.TABLES, *EXPERTS) if world == 2 else ():
        for rows in (1, 2) if kind in checks.TABLES else (1,):
            for spoiled in (False, True):
                found[f"verified-{kind}-{rows}-row-shards-{spoiled}"] = checks.is_verified, (kind, rows, 1, spoiled)
    if world == 2:
        for way in ("replicas", "fsdp", "tensor"):
            for spoiled in (False, True):
                copies = 2 if way == "replicas" else 1
                found[f"verified-dense-{way}-{spoiled}"] = checks.is_verified, ("dense", 1, copies, spoiled, way)
    for way in dense_checks.WAYS:
        for replicas in (1, 2)[: 1 + (world == 4)]:
            for counts in (checks.UNEVEN, (3,) * 4):
                at = f"{way}-{replicas}-replicas-{counts[1]}"
                found[f"same-dense-{at}"] = dense_checks.same_as_whole, (way, replicas, counts)
            found[f"trains-dense-{at}"] = dense_checks.trains_as_whole, (way, replicas, checks.UNEVEN)
        found[f"sends-dense-{way}"] = dense_checks.sends_as_counted, (way,)
    found |= of_routings_and_tables(world)
    for rows in {rows for rows, replicas in CUTS[world] if replicas == 1}:
        found[f"numbers-{rows}-row-shards"] = checks.numbers_rows_as_counted, (rows,)
    found["adds-up"] = checks.adds_up_either_way, ()
    if world == 4:  # the ranks of a host have rows, and hosts have columns
        for kind in ("memory", "peer"):
            found[f"same-{kind}-rows-inside"] = checks.same_as_whole, (kind, 2, 1, checks.UNEVEN, None, True)
            found[f"sends-{kind}-rows-inside"] = checks.sends_as_counted, (kind, 2, 1, "row_adagrad", True)
    if world > 1:
        for kind, stated in itertools.product(checks.TABLES, (None, "uniform")):
            found[f"alone-{kind}-{stated or 'routed'}"] = checks.share_alone_is_the_real_one, (kind, stated)
        found["alone-experts"] = checks.experts_alone_are_the_real_ones, ()
    return found


def of_routings_and_tables(world):
    """Imposed routings, narrow numbers, tables in the host's memory."""
    found = {}
    for rows, replicas in FEWER_CUTS[world]:
        cut = f"{rows}-row-shards-{replicas}-replicas"
        of_tables = {"memory": "zipf", "peer": "uniform", "memory_bf16": "uniform", "peer_bf16": "uniform"}
        of_experts = {"token_choice": "zipf", "token_choice_bf16": "uniform"} if rows == 1 else {}
        for kind, stated in {**of_tables, **of_experts}.items():
            found[f"{stated}-{kind}-{cut}"] = checks.same_as_whole, (kind, rows, replicas, checks.UNEVEN, stated)
        found[f"same-in_host-{cut}"] = checks.same_as_whole, ("in_host", rows, replicas, checks.UNEVEN)
        found[f"trains-in_host-{cut}"] = (
            checks.trains_as_whole,
            ("in_host", rows, replicas, "row_adagrad", replicas == 1),
        )
        for pool in ("shared", "own")[: 1 + (rows == 1)]:
            found[f"model-{pool}-{cut}"] = checks.model_trains_as_whole, (pool, rows, replicas)
        if replicas == 1:
            row_format = "float8_e4m3fn" if rows == 1 else "int8"
            found[f"{row_format}-{cut}"] = checks.quantized_as_whole, (row_format, rows)
    for pool in ("shared", "own"):
        found[f"sends-model-{pool}"] = checks.model_sends_as_counted, (pool,)
    for kind in ("memory", "token_choice"):
        found[f"trace-{kind}"] = checks.same_as_whole, (kind, 1, 1, checks.UNEVEN, "trace")
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
