"""Blocks and models against float64, decoding against prefilling, and what they are counted to be."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layers import build
from layers.checking.answer import find_fault
from layers.checking.sampled_reference import relative_rms
from layers.checking.verification import verify
from layers.kernels.paths import forced
from layers.models.block import Block
from layers.models.cache import KVCache
from layers.models.model import Model
from layers.models.rotary import turned, turns
from layers.spec import (
    PRESETS,
    AttentionSpec,
    BlockSpec,
    DenseSpec,
    MemoryPlusSpec,
    MemorySpec,
    ModelSpec,
    MoESpec,
    PeerSpec,
    Spaced,
    Step,
)

WIDTH = 24
SHAPE = {"model_dim": WIDTH, "dtype": "float32"}
ATTENTION = AttentionSpec(heads=6, kv_heads=2, head_dim=4)
LAYERS = {
    "dense": DenseSpec(ffn_hidden=40, **SHAPE),
    "moe": MoESpec(num_experts=6, expert_hidden=16, top_k=2, shared_hidden=8, **SHAPE),
    "moe_top1": MoESpec(num_experts=5, expert_hidden=16, top_k=1, router="sigmoid", **SHAPE),
    "memory": MemorySpec(num_keys=81, heads=2, top_k=5, key_dim=8, companion_hidden=8, **SHAPE),
    "memory_plus": MemoryPlusSpec(num_keys=49, heads=3, top_k=4, key_dim=6, **SHAPE),
    "peer": PeerSpec(num_keys=64, heads=2, top_k=3, key_dim=8, **SHAPE),
}
STEPS = {
    "forward_backward": Step(15, mode="forward_backward", sequences=3),
    "prefill": Step(15, mode="prefill", sequences=3),
    "prefill_after_context": Step(15, mode="prefill", sequences=3, context=7),
    "decode": Step(3, mode="decode", sequences=3, context=11),
    "decode_first": Step(1, mode="decode"),
}


def block_of(kind: str) -> BlockSpec:
    return BlockSpec(attention=ATTENTION, ffn=LAYERS[kind], **SHAPE)


def model_of(
    kind: str, *, tied: bool = False, at: tuple[int, ...] = (0, 2), pool: str = "own", num_blocks: int = 3
) -> ModelSpec:
    return ModelSpec(
        vocab_size=37,
        num_blocks=num_blocks,
        attention=ATTENTION,
        ffn_hidden=32,
        layer=LAYERS[kind],
        at=at,
        pool=pool,  # type: ignore[arg-type]
        tied=tied,
        **SHAPE,
    )


def checked(spec: BlockSpec | ModelSpec, step: Step, seed: int) -> None:
    layer = build(spec, seed=seed).train(step.has_backward)
    layer.make_ready(step, seed)
    generator = torch.Generator().manual_seed(seed)
    x = layer.draw_tokens(step.tokens, generator)
    found = verify(layer, x, gradients=step.has_backward, seed=seed)
    assert found.failure is None, found
    if step.has_backward:
        assert any(name.endswith("qkv") for name in found.errors)


@pytest.mark.parametrize("mode", STEPS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_block_is_its_float64_reference(kind: str, mode: str) -> None:
    checked(block_of(kind), STEPS[mode], seed=len(kind))


@pytest.mark.parametrize("mode", STEPS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_model_is_its_float64_reference(kind: str, mode: str) -> None:
    checked(model_of(kind, tied=kind == "moe"), STEPS[mode], seed=3)


@pytest.mark.parametrize("mode", STEPS)
@pytest.mark.parametrize("kind", ["memory", "memory_plus"])
def test_layers_that_share_a_pool_are_their_reference(kind: str, mode: str) -> None:
    checked(model_of(kind, at=(0, 1, 2), pool="shared"), STEPS[mode], seed=5)


def deep_model_of(kind: str) -> ModelSpec:
    return model_of(kind, at=(3, 7, 11), num_blocks=16).with_dtype("bfloat16")


@pytest.mark.parametrize("mode", ["forward_backward", "decode"])
@pytest.mark.parametrize("kind", ["dense", "memory_plus", "moe"])
def test_a_deep_model_in_bf16_is_its_reference(kind: str, mode: str) -> None:
    checked(deep_model_of(kind), STEPS[mode], seed=2)


def with_queries_a_position_late(block: Block) -> None:
    attention, right = block.attention, block.attention._attend

    def attend(projected: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        spec = attention.spec
        queries, others = projected.split([spec.query_width, spec.qkv_width - spec.query_width], dim=-1)
        cosines, sines = turns(2, spec.head_dim, spec.rope_theta, projected.dtype, "cpu")
        late = turned(queries.unflatten(-1, (spec.heads, spec.head_dim)), cosines[1], sines[1])
        return right(torch.cat([late.flatten(-2), others], dim=-1), cache)

    attention._attend = attend  # type: ignore[method-assign]


def with_sharper_attention(block: Block) -> None:
    spec, right = block.attention.spec, block.attention._attend

    def attend(projected: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        queries, others = projected.split([spec.query_width, spec.qkv_width - spec.query_width], dim=-1)
        return right(torch.cat([2**0.5 * queries, others], dim=-1), cache)

    block.attention._attend = attend  # type: ignore[method-assign]


def without_residual(block: Block) -> None:
    right = block._attended
    block._attended = lambda x: right(x) - x  # type: ignore[method-assign]


def with_a_residual_that_takes_no_gradient(block: Block) -> None:
    right = block._attended
    block._attended = lambda x: right(x) - x + x.detach()  # type: ignore[method-assign]


FAULTS = [
    with_queries_a_position_late,
    with_sharper_attention,
    without_residual,
    with_a_residual_that_takes_no_gradient,
]


def fault_found(kind: str, step: Step, fault: Callable[[Block], None], blocks: Iterable[int]) -> str | None:
    model = build(deep_model_of(kind), seed=2).train(step.has_backward)
    assert isinstance(model, Model)
    model.make_ready(step, 2)
    for number in blocks:
        fault(model.blocks[number])  # type: ignore[arg-type]
    x = model.draw_tokens(step.tokens, torch.Generator().manual_seed(2))
    return verify(model, x, gradients=step.has_backward, seed=2).failure


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["dense", "memory_plus", "moe"])
def test_a_fault_in_one_block_of_a_deep_model_is_found_in_bf16(kind: str, fault: Callable[[Block], None]) -> None:
    assert fault_found(kind, STEPS["forward_backward"], fault, [8])


@pytest.mark.parametrize("fault", FAULTS[:3])
@pytest.mark.parametrize("kind", ["dense", "memory_plus", "moe"])
def test_a_fault_of_all_blocks_is_found_in_what_they_decode(kind: str, fault: Callable[[Block], None]) -> None:
    with forced("torch"):  # where attention is calls that a fault can lie between
        assert fault_found(kind, STEPS["decode"], fault, range(16))


def test_a_call_that_changes_its_context_is_found() -> None:
    layer = build(block_of("dense"), seed=0).eval()
    layer.make_ready(STEPS["decode"])
    x = layer.draw_tokens(3, torch.Generator().manual_seed(0))

    def call(x: torch.Tensor, routing: object = None) -> torch.Tensor:
        y = layer(x)
        layer.cache.keys[:, :, 0] = 0  # type: ignore[union-attr]
        return y

    fault = find_fault(layer, x, call=call, upstream=None, other=None)
    assert fault == "the call changes keys or values of earlier tokens"


DECODED = [
    *((kind, "own", kv_heads) for kind in LAYERS for kv_heads in (1, 2, 6)),
    *((kind, "shared", 2) for kind in ("memory", "memory_plus")),
]


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 1, 2, 1]], ids=["from the first", "after a prompt"])
@pytest.mark.parametrize("sequences", [1, 3, 9])  # 9: more than take a step's kernels
@pytest.mark.parametrize(("kind", "pool", "kv_heads"), DECODED)
def test_decoding_with_the_cache_is_prefilling_without(
    kind: str, pool: str, kv_heads: int, sequences: int, pieces: list[int]
) -> None:
    attention = ATTENTION.model_copy(update={"kv_heads": kv_heads})
    model = build(model_of(kind, pool=pool).model_copy(update={"attention": attention}), seed=1).eval()
    assert isinstance(model, Model)
    x = torch.randint(37, (sequences, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        prefilled = [model(x[:, : sum(pieces[: number + 1])]) for number in range(len(pieces))]
    model.start(sequences, capacity=9)
    for part, expected in zip(x.split(pieces, dim=1), prefilled, strict=True):
        assert relative_rms(model.next_logits(part), expected.double()) < 1e-5


def test_what_is_kept_of_positions_serves_training_after_inference_mode() -> None:
    model = build(model_of("dense"))
    assert isinstance(model, Model)
    tokens = torch.randint(37, (2, 1500))  # more positions than other tests have made angles for
    with torch.inference_mode():
        model.eval()(tokens)
    model.train()(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("pool", ["own", "shared"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_counted_parameters_are_those_there_are(kind: str, tied: bool, pool: str) -> None:
    if pool == "shared" and not kind.startswith("memory"):
        pytest.skip("there is no table to share")
    spec = model_of(kind, tied=tied, pool=pool)
    model, cost = build(spec), spec.cost(Step(4))
    parameters = {id(p): p for p in model.parameters()}.values()
    assert cost.params == cost.rank_params == sum(p.numel() for p in parameters)
    assert cost.stored_bytes == sum(p.nbytes for p in parameters)
    block = block_of(kind)
    assert block.cost(Step(4)).params == sum(p.numel() for p in build(block).parameters())


@pytest.mark.parametrize(("sequences", "new", "context"), [(2, 5, 0), (3, 1, 8), (2, 4, 3)])
def test_flops_of_attention_are_those_of_plain_products(sequences: int, new: int, context: int) -> None:
    spec, width = ATTENTION, ATTENTION.head_dim
    with FlopCounterMode(display=False) as counter:
        torch.empty(sequences * new, WIDTH) @ torch.empty(WIDTH, spec.qkv_width)
        torch.empty(sequences * new, spec.query_width) @ torch.empty(spec.query_width, WIDTH)
        for _ in range(sequences * spec.heads):
            for token in range(new):
                seen = context + token + 1
                weights = torch.empty(1, width) @ torch.empty(width, seen)
                weights @ torch.empty(seen, width)
    step = Step(sequences * new, mode="prefill", sequences=sequences, context=context)
    assert sum(stage.flops for stage in spec.stages(step, WIDTH, 4)) == counter.get_total_flops()


@pytest.mark.parametrize("mode", ["prefill", "decode", "forward_backward", "train_step"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_model_costs_what_its_parts_do(kind: str, mode: str) -> None:
    spec = model_of(kind)
    step = Step(6, mode=mode, sequences=6 if mode == "decode" else 2, optimizer="sgd" if mode == "train_step" else None)  # type: ignore[arg-type]
    parts = [spec.ends.cost(step), spec.plain_block.cost(step), *2 * [block_of(kind).cost(step)]]
    whole = spec.cost(step)
    for name in ("flops", "flops_executed", "bytes_min", "params", "active_params", "stored_bytes"):
        assert getattr(whole, name) == pytest.approx(sum(getattr(part, name) for part in parts)), name
    assert whole.memory.weights == sum(part.memory.weights for part in parts)


@pytest.mark.parametrize(
    ("preset", "params"),
    [("134m", 134.1e6), ("373m", 373.9e6), ("720m", 721e6), ("1.3b", 1.345e9), ("8b", 8.03e9), ("91m", 91.2e6)],
)
def test_presets_have_the_sizes_that_they_are_named_by(preset: str, params: float) -> None:
    shape = PRESETS[preset]
    dense = DenseSpec(model_dim=shape.model_dim, ffn_hidden=shape.ffn_hidden)
    assert shape.around(dense, "all", "own").cost(Step(1)).params == pytest.approx(params, rel=2e-3)


@pytest.mark.parametrize(
    ("blocks", "count", "stride", "found"), [(24, 3, 8, (4, 12, 20)), (12, 3, 4, (2, 6, 10)), (32, 3, 8, (8, 16, 24))]
)
def test_spaced_blocks_lie_around_the_middle(blocks: int, count: int, stride: int, found: tuple[int, ...]) -> None:
    assert Spaced(count=count, stride=stride).of(blocks) == found
