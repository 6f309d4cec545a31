"""Every preset with every kind of layer: params are the module's numel, FLOPs what torch counts on plain products.

All tensors are on the meta device, which has shapes and no numbers, so that the largest preset fits.

Letters: S sequences, T new tokens of each, C tokens of context, B = S·T.
"""

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from against_reference import counted_flops
from torch import Tensor

from layers.checking import reference
from layers.models.block import Block
from layers.models.model import Model
from layers.spec import (
    PRESETS,
    DenseSpec,
    MemoryPlusSpec,
    MemorySpec,
    ModelShape,
    ModelSpec,
    MoESpec,
    PeerSpec,
    RetrievalSpec,
    Step,
)
from layers.spec.block import OwnLayerSpec

ROWS: dict[str, Any] = {"num_keys": 64**2, "heads": 2, "top_k": 3, "key_dim": 32}
KINDS = ["dense", "moe", "memory", "memory_plus", "memory_plus_shared", "peer"]
STEPS = [
    Step(6, mode="prefill", sequences=2),
    Step(6, mode="prefill", sequences=2, context=4),
    Step(2, mode="decode", sequences=2, context=5),
    Step(6, mode="forward_backward", sequences=2),
]


def layer_of(kind: str, shape: ModelShape) -> OwnLayerSpec:
    d, hidden = shape.model_dim, shape.ffn_hidden // 4
    match kind:
        case "dense":
            return DenseSpec(model_dim=d, ffn_hidden=shape.ffn_hidden)
        case "moe":
            return MoESpec(model_dim=d, num_experts=5, expert_hidden=hidden, top_k=2, shared_hidden=hidden)
        case "memory":
            return MemorySpec(model_dim=d, companion_hidden=hidden, **ROWS)
        case "peer":
            return PeerSpec(model_dim=d, **ROWS)
        case _:
            return MemoryPlusSpec(model_dim=d, **ROWS)


def model_of(kind: str, preset: str) -> ModelSpec:
    shape = PRESETS[preset]
    pool = "shared" if kind.endswith("shared") else "own"
    return shape.around(layer_of(kind, shape), "all" if kind == "moe" else (0, shape.num_blocks - 1), pool)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_params_are_numel(preset: str, kind: str) -> None:
    spec = model_of(kind, preset)
    model, cost = Model(spec, device="meta"), spec.cost(Step(1))
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.stored_bytes == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.mode}-{step.context}")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_flops_are_counted_ones(preset: str, kind: str, step: Step) -> None:
    spec = model_of(kind, preset)
    model = Model(spec, device="meta")
    forward, both = counted_by_blocks(model, step)
    saved = sum(_saved(model.spec.block(number).ffn, step.tokens) for number in range(spec.num_blocks))
    assert spec.cost(step).flops == (both - saved if step.has_backward else forward)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.mode}-{step.context}")
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_are_alike_count_alike(kind: str, step: Step) -> None:
    model = Model(model_of(kind, "tiny"), device="meta")
    assert counted_by_blocks(model, step) == counted_flops(lambda: plain_model(model, step))


def counted_by_blocks(model: Model, step: Step) -> tuple[int, int]:
    """Of the plain forward, and of it with its backward: a block of each kind, times how many there are."""
    spec = model.spec
    alike = Counter(spec.block(number).model_dump_json() for number in range(spec.num_blocks))
    first = {spec.block(number).model_dump_json(): block for number, block in enumerate(model.blocks)}
    forward, both = counted_flops(lambda: plain_logits(model, plain_embedded(model, step), step))
    for kind, count in alike.items():
        x = torch.empty(step.tokens, spec.model_dim, dtype=torch.float64, device="meta", requires_grad=True)
        of_block = counted_flops(partial(plain_block, first[kind], x, step))
        forward, both = forward + count * of_block[0], both + count * of_block[1]
    return forward, both


def _saved(layer: OwnLayerSpec, tokens: int) -> int:
    """Products with zeros, which the plain backward pass makes of all scores and the layer of those it chose alone."""
    if not (isinstance(layer, RetrievalSpec) and layer.sparse_scores_backward):
        return 0
    return 4 * tokens * layer.heads * (layer.sub_keys - layer.top_k) * layer.key_dim


def plain_model(model: Model, step: Step) -> Tensor:
    """The logits that a step wants, in plain products."""
    hidden = plain_embedded(model, step)
    for block in model.blocks:
        hidden = plain_block(block, hidden, step)
    return plain_logits(model, hidden, step)


def plain_embedded(model: Model, step: Step) -> Tensor:
    return model.embedding.double()[torch.empty(step.tokens, dtype=torch.long, device="meta")]


def plain_logits(model: Model, hidden: Tensor, step: Step) -> Tensor:
    """Of each sequence's last token, or of all tokens."""
    spec = model.spec
    rows = hidden if step.has_backward else hidden.view(step.sequences, step.new_tokens, -1)[:, -1]
    head = model.embedding if spec.tied else model.head
    return reference.rms_norm(rows, model.norm.double()) @ head.double().T


def plain_block(block: Block, hidden: Tensor, step: Step) -> Tensor:
    shape, context = block.spec.attention, None
    if step.context:
        cached = torch.empty(2, shape.kv_heads, step.context, shape.head_dim, dtype=torch.float64, device="meta")
        context = (cached[0], cached[1])
    normed = reference.rms_norm(hidden, block.attention_norm.double())
    weights = {name: p.double() for name, p in block.attention.named_parameters()}
    new = range(step.new_tokens)
    added = [reference.attention(shape, weights, x, new, context) for x in normed.split(step.new_tokens)]
    between = hidden + torch.cat(added)
    return between + plain_ffn(block.ffn, reference.rms_norm(between, block.ffn_norm.double()))


def plain_ffn(layer: Any, x: Tensor) -> Tensor:
    """Which rows and experts are chosen is of no account to what it costs: any are."""
    spec = layer.spec
    w = {name.removesuffix(".weight"): p.detach().double().requires_grad_() for name, p in layer.named_parameters()}
    if isinstance(spec, DenseSpec):
        return reference.dense(spec, w, x)
    if isinstance(spec, MoESpec):
        chosen = (torch.arange(len(x))[:, None] + torch.arange(spec.top_k)) % spec.num_experts
        return reference.moe_token_choice(spec, w, x, chosen.to("meta"), chosen)
    rows = torch.empty(len(x), spec.heads, spec.top_k, dtype=torch.long, device="meta")
    plain = reference.peer if isinstance(spec, PeerSpec) else reference.memory
    return plain(spec, w, x, rows, rows)
