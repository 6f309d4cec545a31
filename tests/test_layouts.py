"""Ways to share a layer: bytes by hand, what each rank holds, groups and their replicas, and what cannot be."""

import pytest

from layers.spec import (
    BlockSpec,
    Collective,
    DenseSpec,
    Layout,
    MemoryPlusSpec,
    MemorySpec,
    ModelSpec,
    MoESpec,
    PeerSpec,
    Step,
    collectives,
)
from layers.spec.attention import AttentionSpec
from layers.spec.collective import sending
from layers.spec.layout import PIECE_BYTES
from layers.spec.quantities import SIZE_BYTES

D = 64
DENSE = DenseSpec(model_dim=D, ffn_hidden=256, dtype="float32")
MEMORY = MemorySpec(model_dim=D, num_keys=64**2, heads=2, top_k=4, key_dim=16, dtype="float32")
KINDS = [
    DENSE,
    MEMORY,
    MemoryPlusSpec(model_dim=D, num_keys=64**2, heads=2, top_k=4, key_dim=16),
    MoESpec(model_dim=D, num_experts=64, expert_hidden=64, top_k=2),
    MoESpec(model_dim=D, num_experts=64, expert_hidden=64, top_k=2, choice="expert"),
    PeerSpec(model_dim=D, num_keys=64**2, heads=2, top_k=4, key_dim=16),
]
TRAIN = Step(8, mode="train_step", optimizer="row_adagrad", ranks=16)


def layout(spec, name, ranks=16, host_ranks=4) -> Layout:
    return next(each for each in spec.layouts(ranks, host_ranks) if each.name == name)


def by_kind(found):
    return {(each.kind, each.ranks, each.stride): each for each in found}


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_to_all", "all_reduce"])
def test_a_rank_sends_all_of_a_payload_but_its_own_share(kind):
    one = Collective(kind, 1200.0, 4)
    assert one.sent_bytes == (1800 if kind == "all_reduce" else 900)
    assert sending(kind, 3 * one.sent_bytes, 4, calls=3) == Collective(kind, 1200.0, 4, calls=3)


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.kind}-{getattr(spec, 'choice', '')}")
@pytest.mark.parametrize("mode", ["forward", "forward_backward", "train_step"])
def test_every_name_of_a_cost_is_known_and_no_byte_is_lost(spec, mode):
    step = Step(8, mode=mode, optimizer="row_adagrad" if mode == "train_step" else None, ranks=16)
    for each in spec.layouts(16, 4):
        assert each.error(spec, 16) is None
        cost, found = each.cost(spec, step)
        inside = [one for one in found if each.replicas == 1 or one.stride < each.group(16)]
        assert sum(one.sent_bytes for one in inside) == pytest.approx(sum(cost.communication_bytes.values()))
        assert all(one.ranks > 1 and one.calls >= 1 for one in found)


def test_an_unknown_name_is_a_fault():
    with pytest.raises(KeyError, match="all_gather_nothing"):
        collectives({"all_gather_nothing": 1.0}, ranks=2, backward=False)


def test_rows_and_columns_at_once_move_what_each_moves_in_its_own_group():
    """P = 4 columns x 4 rows; b = 8 tokens of 8 lookups; D = 64 numbers of 4 bytes."""
    columns_inside = by_kind(layout(MEMORY, "columns in a host, rows between").cost(MEMORY, TRAIN)[1])
    assert columns_inside["all_gather", 4, 1].ranks == 4
    assert columns_inside["reduce_scatter", 4, 4].payload_bytes == 4 * 8 * 64 * 4, (
        "4 x 8 tokens' bags, whole rows' bytes"
    )
    assert columns_inside["all_to_all", 4, 1].payload_bytes == 8 * 64 * 4
    rows_inside = by_kind(layout(MEMORY, "rows in a host, columns between").cost(MEMORY, TRAIN)[1])
    assert rows_inside["reduce_scatter", 4, 1].payload_bytes == 4 * 8 * 64 * 4, "bags are summed inside a host"
    assert rows_inside["all_to_all", 4, 4].payload_bytes == 8 * 64 * 4


@pytest.mark.parametrize(
    "name", ["columns", "rows", "columns in a host, rows between", "rows in a host, columns between"]
)
def test_however_a_table_is_cut_a_rank_holds_its_part(name):
    cost, _ = layout(MEMORY, name).cost(MEMORY, TRAIN)
    assert cost.rank_params == MEMORY.layer_params + MEMORY.table_params // 16


def test_hosts_that_each_hold_a_table_exchange_the_rows_that_were_read():
    cost, found = layout(MEMORY, "columns in a host").cost(MEMORY, TRAIN)
    assert cost.rank_params == MEMORY.layer_params + MEMORY.table_params // 4
    matrices, *gathered = [each for each in found if each.stride == 4]
    assert matrices == Collective("all_reduce", MEMORY.layer_params * 4, 4, 4)
    assert {each.kind for each in gathered} == {"all_gather"}
    sent = [each.sent_bytes for each in gathered]
    assert sent == pytest.approx([3 * 8, 3 * cost.unique_rows * 4, 3 * cost.unique_rows * (64 // 4) * 4]), (
        "how many rows, their numbers, and a quarter of each"
    )
    assert not [
        each for each in layout(MEMORY, "columns in a host").cost(MEMORY, Step(8, ranks=16))[1] if each.stride > 1
    ]


def test_replicas_of_a_dense_layer_all_reduce_its_gradient():
    cost, (one,) = layout(DENSE, "replicas").cost(DENSE, TRAIN)
    assert one == Collective("all_reduce", DENSE.cost(Step(1)).params * 4, 16)
    assert cost.rank_params == 3 * 64 * 256
    assert layout(DENSE, "replicas").cost(DENSE, Step(8, ranks=16))[1] == []


def test_gathered_weights_are_held_in_parts_and_sent_three_times_in_training():
    weights = 3 * 64 * 256 * 4
    cost, found = layout(DENSE, "fsdp").cost(DENSE, TRAIN)
    gathered = Collective("all_gather", weights, 16)
    assert found == [gathered, gathered, Collective("reduce_scatter", weights, 16)]
    whole = DENSE.cost(Step(8, mode="train_step", optimizer="row_adagrad"))
    assert cost.rank_params * 16 == whole.rank_params
    assert cost.memory.weights * 16 == whole.memory.weights
    assert cost.memory.activations == whole.memory.activations + 2 * weights
    assert [stage.flops for stage in cost.stages] == [stage.flops for stage in whole.stages]
    update = {stage.name: stage.stream_bytes for stage in cost.stages}["update"]
    assert update * 16 == {stage.name: stage.stream_bytes for stage in whole.stages}["update"]
    in_hosts = by_kind(layout(DENSE, "fsdp in a host").cost(DENSE, TRAIN)[1])
    assert in_hosts["all_gather", 4, 1].payload_bytes == weights
    assert in_hosts["all_reduce", 4, 4].payload_bytes == weights / 4, "of the part that a rank holds"


def test_a_layer_cut_by_its_hidden_width_sends_tokens_and_no_weights():
    cost, found = layout(DENSE, "tensor").cost(DENSE, TRAIN)
    tokens = 16 * 8 * 64 * 4
    sizes, *found = found
    assert (sizes.kind, sizes.payload_bytes) == ("all_gather", 16 * SIZE_BYTES)
    assert found == [Collective(kind, tokens, 16) for kind in ("all_gather", "reduce_scatter")] * 2
    whole = DENSE.cost(Step(8, mode="train_step", optimizer="row_adagrad"))
    assert cost.rank_params * 16 == whole.rank_params == cost.params
    assert cost.memory.weights * 16 == whole.memory.weights
    assert cost.flops == whole.flops, "a sixteenth of sixteen ranks' tokens"
    forward = layout(DENSE, "tensor").cost(DENSE, Step(8, ranks=16))[1]
    assert [each.calls for each in forward] == [1, 1, 1]
    in_hosts = by_kind(layout(DENSE, "tensor in a host").cost(DENSE, TRAIN)[1])
    assert in_hosts["all_gather", 4, 1].payload_bytes == tokens / 4
    assert in_hosts["all_reduce", 4, 4].payload_bytes == 3 * 64 * 256 * 4 / 4, "of the part that a rank holds"
    assert layout(DENSE, "tensor").error(DENSE, 24) == "ffn_hidden 256 cannot be cut into 24 equal parts"
    with pytest.raises(ValueError, match="256 cannot be cut into 24"):
        DENSE.tensor_cost(Step(8, ranks=24))
    with pytest.raises(ValueError, match="no layer but a dense one"):
        MEMORY.tensor_cost(Step(8, ranks=2))


def test_attention_is_not_cut_by_widths():
    attention = AttentionSpec(heads=4, kv_heads=4, head_dim=16)
    block = BlockSpec(model_dim=D, attention=attention, ffn=DENSE, dtype="float32")
    shape = {"model_dim": D, "num_blocks": 2, "attention": attention, "ffn_hidden": 256, "vocab_size": 64}
    for whole in (
        block,
        ModelSpec(**shape, dtype="float32"),
        ModelSpec(**shape, layer=DENSE, at=(1,), dtype="float32"),
    ):
        assert [each.name for each in whole.layouts(8, 8)] == ["replicas", "fsdp"]


def test_a_large_layer_is_gathered_in_pieces():
    large = DenseSpec(model_dim=4096, ffn_hidden=2**20)
    cost, found = layout(large, "fsdp").cost(large, Step(8, ranks=16))
    pieces = found[0].calls
    assert pieces == -(-3 * 4096 * 2**20 * 2 // PIECE_BYTES)
    assert cost.memory.activations < large.cost(Step(8)).memory.activations + 2.1 * PIECE_BYTES


def test_what_cannot_be_cut_says_so():
    assert "64 columns cannot be cut into 128" in layout(MEMORY, "columns", 128, 8).error(MEMORY, 128)
    few = MemorySpec(model_dim=D, num_keys=16, heads=1, top_k=2, key_dim=16)
    assert "16 value rows cannot be shared by 32" in layout(few, "rows", 32, 8).error(few, 32)
    assert "cannot be shared by 128 ranks" in layout(KINDS[3], "experts", 128, 8).error(KINDS[3], 128)
    assert layout(DENSE, "fsdp", 128, 8).error(DENSE, 128) is None


def test_one_host_has_no_ways_between_hosts():
    assert [each.name for each in MEMORY.layouts(8, 8)] == ["columns", "rows"]
    assert [each.name for each in DENSE.layouts(8, 8)] == ["replicas", "fsdp", "tensor"]


def test_a_model_is_shared_as_its_layer_is_with_calls_of_every_block():
    attention = AttentionSpec(heads=4, kv_heads=4, head_dim=16)
    block = BlockSpec(model_dim=D, attention=attention, ffn=MEMORY, dtype="float32")
    shape = {"model_dim": D, "num_blocks": 6, "attention": attention, "ffn_hidden": 256, "vocab_size": 64}
    model = ModelSpec(**shape, layer=MEMORY, at=(1, 3), dtype="float32")
    step = Step(8, mode="train_step", optimizer="row_adagrad", ranks=16)
    for whole, calls in ((block, 1), (model, 2)):
        assert whole.layouts(16, 4) == MEMORY.layouts(16, 4)
        _, found = layout(whole, "rows").cost(whole, step)
        assert by_kind(found)["reduce_scatter", 16, 1].calls == calls
        assert by_kind(found)["all_reduce", 16, 1].calls == 1, "gradients of all matrices are added up at once"
    assert "cannot be cut into 128" in layout(model, "columns", 128, 8).error(model, 128)
