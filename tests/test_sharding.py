"""Ways of cutting a table over ranks: what they send, by the formulas, and which of them is the default."""

import random

import pytest

from layers.spec import MemorySpec, MoESpec, PeerSpec, Step

KINDS = {"memory": MemorySpec, "peer": PeerSpec}


def random_spec(kind, rng):
    return KINDS[kind](
        model_dim=rng.choice([64, 256, 1024, 4096]),
        num_keys=rng.choice([64, 2**16]) ** 2,  # int32 cannot number 2^32 rows
        heads=rng.choice([1, 4, 8]),
        top_k=rng.choice([4, 16, 64]),
        key_dim=16,
        dtype=rng.choice(["bfloat16", "float32"]),
    )


def sent(spec, ranks, row_shards, mode="forward_backward"):
    """Bytes a rank sends, but for gradients that each way sends alike and the few of counts."""
    found = spec.cost(Step(16, mode, ranks=ranks, row_shards=row_shards)).communication_bytes
    return sum(
        count
        for name, count in found.items()
        if name != "all_reduce_gradients" and "counts" not in name and "sizes" not in name
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_sends_less(kind, seed):
    rng, chosen = random.Random(seed), set()
    for _ in range(300):
        spec, ranks = random_spec(kind, rng), rng.choice([2, 4, 8, 64])
        rows = spec.best_row_shards(ranks)
        assert rows in (1, ranks)
        chosen.add(rows == 1)
        assert sent(spec, ranks, rows) <= sent(spec, ranks, ranks + 1 - rows)
    assert chosen == {True, False}


def test_the_default_for_memory_is_the_inequality_of_the_documents():
    spec = {"num_keys": 64**2, "heads": 4, "top_k": 32, "key_dim": 16, "dtype": "bfloat16"}
    # H·k·(4 + 2·4) = 1536 against 2·D·2: from 384 columns on
    assert MemorySpec(model_dim=384, **spec).best_row_shards(8) == 8
    assert MemorySpec(model_dim=448, **spec).best_row_shards(8) == 1


def test_columns_that_do_not_divide_leave_rows():
    spec = MemorySpec(model_dim=1000, num_keys=64**2, top_k=4, key_dim=16)
    assert spec.best_row_shards(8) == 1
    assert spec.best_row_shards(16) == 16
    assert "16 equal column shards" in spec.shard_error(1, 16)
    assert "row shards" in spec.shard_error(64**2 + 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_of_rows_and_columns_holds_its_part_and_reads_its_part(kind):
    spec = random_spec(kind, random.Random(0))
    whole = spec.cost(Step(16))
    for rows in (1, 2, 4):
        cost = spec.cost(Step(16, ranks=4, row_shards=rows))
        assert (cost.rank_params - spec.layer_params) * 4 == spec.table_params
        assert cost.lookups * rows == whole.lookups * 4
        assert cost.params == whole.params


def test_row_rules_need_the_squares_of_other_columns():
    spec = random_spec("memory", random.Random(0))
    for rule, columns, wanted in (
        ("row_adagrad", 4, 2 * 100 * 4 * 3 / 4),
        ("row_adam", 2, 2 * 100 * 4 / 2),
        ("lazy_adam", 4, None),
        ("row_adagrad", 1, None),
    ):
        step = Step(16, "train_step", rule, ranks=4, row_shards=4 // columns, unique_rows=100)
        assert spec.cost(step).communication_bytes.get("all_reduce_row_squares") == wanted


def test_expert_choice_is_shared_by_ranks_that_are_there():
    spec = MoESpec(model_dim=64, num_experts=8, expert_hidden=64, top_k=2, choice="expert")
    assert "not there" in spec.split_error(4)
    assert spec.shard_error(1, 4) is None
    cost = spec.cost(Step(16, ranks=4))
    assert cost.communication_bytes["all_gather_scores"] == 3 * 16 * 8 * 4
    assert cost.communication_bytes["all_to_all_tokens"] == 16 * 2 * 64 * 2 * 3 / 4
