"""What only a CUDA device can show. ``make gpu`` runs these; elsewhere they are deselected."""

import pytest
import torch

from layers import build, spec_from, verify
from layers.checking.verification import relative_rms
from layers.optim.layer_optimizer import LayerOptimizer
from layers.spec import AttentionSpec, ModelSpec
from membench.case import Case
from membench.measuring import ceilings
from membench.measuring.implementations import implementation
from membench.measuring.inputs import make_inputs
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.time import Clock, Sampling
from membench.measuring.ways import way_of

pytestmark = pytest.mark.gpu

KINDS = {
    "dense": {"ffn_hidden": 160},
    "moe": {"num_experts": 12, "expert_hidden": 48, "top_k": 3, "shared_hidden": 24},
    "memory": {"num_keys": 4096, "heads": 2, "top_k": 7, "key_dim": 32},
    "memory_plus": {"num_keys": 4096, "heads": 2, "top_k": 7, "key_dim": 32, "value_dim": 96},
    "peer": {"num_keys": 4096, "heads": 2, "top_k": 7, "key_dim": 32},
}


def a_case(kind, *, model_dim, tokens, dtype, ranks=1, mode="forward_backward", routing="routed"):
    spec = spec_from({"kind": kind, "model_dim": model_dim, "dtype": dtype, **KINDS[kind]})
    case = {"arm": kind, "mode": mode, "layer": spec, "tokens": tokens, "ranks": ranks, "routing": {"kind": routing}}
    return Case(**case)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [1, 33, 512])
@pytest.mark.parametrize("model_dim", [96, 100, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_reference(kind, model_dim, tokens, dtype, seed):
    case = a_case(kind, model_dim=model_dim, tokens=tokens, dtype=dtype)
    layer = build(case.layer, device="cuda", seed=seed)
    (first, _) = make_inputs(layer, case, 2, "cuda")
    found = verify(layer, first.x, first.routing, seed=seed)
    assert found.failure is None, found


@pytest.mark.parametrize("kind", ["moe", "memory", "memory_plus", "peer"])
@pytest.mark.parametrize("routing", ["routed", "zipf"])
def test_one_rank_of_four(kind, routing, seed):
    case = a_case(kind, model_dim=128, tokens=16, dtype="bfloat16", ranks=4, routing=routing)
    layer = build(case.layer, ranks=4, device="cuda", seed=seed)
    (first,) = make_inputs(layer, case, 1, "cuda")
    found = verify(layer, first.x, first.routing, seed=seed)
    assert found.failure is None, found


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_twice(kind):
    case = a_case(kind, model_dim=128, tokens=64, dtype="bfloat16")
    results = []
    for _ in range(2):
        layer = build(case.layer, device="cuda", seed=0)
        (first,) = make_inputs(layer, case, 1, "cuda")
        x = first.x.requires_grad_()
        layer(x).square().sum().backward()
        rows = [table.gradient.values for table in layer.tables()]
        results.append([x.grad, *rows, *(p.grad for p in layer.parameters() if p.grad is not None)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["forward", "forward_backward", "train_step", "decode"])
def test_every_mode_is_measured(kind, mode):
    case = a_case(kind, model_dim=128, tokens=64, dtype="bfloat16", mode=mode)
    if mode == "train_step":
        case = case.model_copy(update={"optimizer": "row_adagrad"})
    measurement = CaseMeasurement(build(case.layer, device="cuda"), Clock("cuda"), 2**20, lambda doing: None)
    found = measurement.run(case, Sampling(5, 3, 1.0, 0.05), ["eager", "cuda_graph"])
    assert found["implementation"]["tried"]["cuda_graph"]["error"] is None
    assert min(found["samples_s"]) > 0
    assert found["hot_samples_s"]
    assert found["memory"]["peak_allocated_bytes"] > found["memory"]["weights_bytes"]


@pytest.mark.parametrize("routing", ["routed", "zipf"])
@pytest.mark.parametrize("rule", ["sgd", "row_adagrad", "row_adam", "lazy_adam"])
@pytest.mark.parametrize("kind", KINDS)
def test_captured_training_steps_are_eager_ones(kind, rule, routing, seed):
    """After some steps at a rate that changes: what the tables hold and what is remembered of them."""
    case = a_case(kind, model_dim=128, tokens=64, dtype="bfloat16", mode="train_step", routing=routing)
    found = []
    for way in ("eager", "cuda_graph"):
        layer = build(case.layer, device="cuda", seed=seed).train()
        inputs, upstream = make_inputs(layer, case, 3, "cuda"), torch.ones(64, 128, device="cuda").bfloat16()
        optimizer = LayerOptimizer(layer, rule, 0.01)
        step = way_of(way, "train_step", layer, inputs, upstream, optimizer).step
        for _ in range(5 if way == "eager" else 1):  # a capture has made four
            step(0)
        for number in (1, 2, 0):
            for table in optimizer.tables:
                table.set_learning_rate(0.01 / (1 + number))
            step(number)
        found.append(
            [p.detach() for p in layer.parameters()] + [t for each in optimizer.tables for t in each.state_tensors()]
        )
    for one, two in zip(*found, strict=True):
        assert relative_rms(two, one.double()) < 1e-3


@pytest.mark.parametrize("mode", ["prefill", "decode"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_replayed_after_its_context(kind, mode, seed):
    """A graph holds the cache's place and its depth: a replay writes the new tokens there again, whatever they are."""
    shape = {"model_dim": 128, "dtype": "bfloat16"}
    attention = AttentionSpec(heads=4, kv_heads=2, head_dim=32)
    layer = spec_from({"kind": kind, **shape, **KINDS[kind]})
    spec = ModelSpec(vocab_size=64, num_blocks=2, attention=attention, ffn_hidden=192, layer=layer, at=(0, 1), **shape)
    new = 2 if mode == "decode" else 24
    case = Case(arm=kind, level="model", mode=mode, layer=spec, tokens=new, sequences=2, context=40, seed=seed)
    measurement = CaseMeasurement(build(spec, device="cuda", seed=seed), Clock("cuda"), 2**20, lambda doing: None)
    found = measurement.run(case, Sampling(5, 3, 1.0, 0.05), ["eager", "cuda_graph"])["implementation"]
    assert found["tried"]["cuda_graph"]["error"] is None
    model = measurement.layer
    first, second = (each.x for each in make_inputs(model, case, 2, "cuda"))
    replay = implementation("cuda_graph", model, first, None)
    with torch.no_grad():
        for x in (first, second, first):
            again, eager = replay(x, None).clone(), model(x)
            kept = [
                part[:, :, 40:].clone() for block in model.blocks for part in (block.cache.keys, block.cache.values)
            ]
            assert relative_rms(again, eager.double()) < 1e-2
            replay(x, None)
            now = [part[:, :, 40:] for block in model.blocks for part in (block.cache.keys, block.cache.values)]
            for one, other in zip(now, kept, strict=True):
                assert relative_rms(one, other.double()) < 1e-2


def test_ceilings_are_those_of_a_gpu():
    clock = Clock("cuda")
    copied, read = ceilings.stream_ceilings(clock, torch.cuda.get_device_properties(0).L2_cache_size)
    assert copied > 1e11
    assert read > 1e11
    assert ceilings.matmul_ceiling(clock, torch.bfloat16) > 1e13
