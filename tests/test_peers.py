"""The public layers compute what their references say, are counted like ours, and fail in one clear line."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from against_reference import assert_close
from public_layers import MEMORY, MOE, PEERS, B, D, H, peer, tokens
from typer.testing import CliRunner

from layers import build, verify
from layers.checking import reference
from layers.optim.layer_optimizer import LayerOptimizer
from layers.public import peer_pytorch, product_key_memory, transformers_moe
from layers.spec import Step
from membench.case import Case
from membench.cli import app
from membench.measuring.memory import tensor_bytes
from membench.measuring.preparation import Preparation
from membench.processes.serving import classify
from membench.results.records import read_result

OURS = [name for name in PEERS if name != "product_key_memory"]  # whose norm ours has not


@torch.no_grad()
def decided(layer, x):
    """The tokens of which rounding cannot change a choice: the k-th best score lies clear of the next."""
    chosen = layer.select(x).indices
    ranked = layer.module.scores(x).sort(dim=-1, descending=True).values
    gap = ranked[..., chosen.shape[-1] - 1] - ranked[..., chosen.shape[-1]]
    kept = x[(gap > 1e-4 * ranked.std()).view(len(x), -1).all(dim=-1)]
    assert len(kept) > len(x) // 2
    return kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PEERS)
def test_each_computes_what_its_reference_says(name, dtype, seed):
    layer = peer(name, dtype, seed)
    found = verify(layer, tokens(seed, getattr(torch, dtype)), seed=seed, sampled_tokens=B)
    assert found.failure is None
    assert set(found.errors) == {"output", "x", *dict(layer.named_parameters())}
    assert found.selection_shortfall is not None


@pytest.mark.parametrize("name", OURS)
def test_with_its_weights_our_layer_gives_the_same(name, seed):
    layer = peer(name, seed=seed)
    x = decided(layer, tokens(seed))
    ours = build(layer.counted_as)
    weights = {key: value.detach() for key, value in layer.module.our_weights().items()}
    for key, parameter in ours.named_parameters():
        parameter.data.copy_(weights[key.removesuffix(".weight")])
    dy, results = torch.randn_like(x), []
    for each in (layer, ours):
        leaf = x.clone().requires_grad_()
        y = each(leaf)
        y.backward(dy)
        results.append((y.detach(), leaf.grad))
    assert torch.equal(layer.select(x).indices.sort().values, ours.select(x).indices.sort().values.long())
    for what, theirs, own in zip(("y", "dx"), *results, strict=True):
        assert_close(what, theirs, own, "float32", slack=2)  # both round


@pytest.mark.parametrize("block", ["mixtral", "qwen3_moe", "olmoe"])
def test_a_block_in_float64_is_our_reference(block, seed):
    """But for the softmax, which the blocks compute in fp32 whatever the dtype. grouped_mm has no float64."""
    module = peer(f"{block}_batched_mm", seed=seed).module.double()
    x = tokens(seed, torch.float64)
    chosen = module.select(x).indices
    assert module.counted_as.renormalize == (block != "olmoe")
    expected = reference.moe_token_choice(module.counted_as, module.our_weights(), x, chosen, chosen)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


def test_choices_are_the_best_of_all(seed):
    x = tokens(seed, torch.float64)
    for name in ("product_key_memory", "peer_pytorch", "embedding_bag"):
        module = peer(name, seed=seed).module.double()
        best = module.scores(x).topk(MEMORY["top_k"]).indices
        assert torch.equal(module.select(x).indices.sort().values, best.sort().values)
        assert module.select(x).weights.sum(dim=-1).allclose(torch.ones(B, H, dtype=torch.float64))


@pytest.mark.parametrize("name", ["product_key_memory", "peer_pytorch", "mixtral_grouped_mm"])
def test_a_changed_peer_is_found_out(name, seed):
    layer = peer(name, seed=seed)
    layer.module.register_forward_hook(lambda module, given, y: 1.001 * y)
    assert "output is off by 0.001" in verify(layer, tokens(seed), gradients=False).failure


@pytest.mark.parametrize("name", ["embedding_bag", "peer_pytorch", "mixtral_grouped_mm"])
def test_counted_like_ours(name, seed):
    layer = peer(name)
    case = Case(arm="a", mode="train_step", optimizer="adamw", layer=layer.spec, tokens=B, seed=seed)
    preparation = Preparation(layer, "cpu", cache_bytes=0)
    inputs, traffic = preparation.inputs(case)
    cost, source = preparation.cost(case, traffic)
    chosen = [layer.select(item.x).indices for item in inputs]
    unique = sum(len(each.unique()) for each in chosen) / len(chosen)
    assert unique == (traffic.active_experts if "mixtral" in name else traffic.unique_rows)
    assert (traffic.lookups or traffic.assignments) == chosen[0].numel()
    spec, names = layer.counted_as, ("unique_rows", "active_experts", "assignments")
    ours = spec.cost(Step(B, mode=case.mode, optimizer="adamw", **{each: getattr(traffic, each) for each in names}))
    assert (cost.flops, cost.bytes_min, cost.params) == (ours.flops, ours.bytes_min, ours.params)
    assert cost.params == sum(p.numel() for p in layer.parameters())
    assert source == "exact"


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("product_key_memory", "product_key_memory", "product-key-memory"),
        ("peer_pytorch", "PEER_pytorch", "PEER-pytorch"),
        ("mixtral_eager", "transformers", "transformers"),
    ],
)
def test_a_missing_package_is_one_clear_line(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        peer(name)
    status, reason = classify(caught.value)
    assert status == "error"
    assert package in reason
    assert reason.endswith("pip install 'membench[peers]'")


@pytest.mark.parametrize(
    ("build_peer", "options", "said"),
    [
        (product_key_memory.build, {**MEMORY, "num_keys": 200}, "num_keys: .*196"),
        (peer_pytorch.build, {**MEMORY, "top_k": 15}, "top_k 15 is above sub_keys 14"),
        (transformers_moe.build, {**MOE, "block": "llama"}, "block: 'llama' is not one of mixtral, qwen3_moe, olmoe"),
        (transformers_moe.build, {**MOE, "block": "olmoe", "experts": "fast"}, "experts: 'fast' is not one of eager"),
        (transformers_moe.build, {**MOE, "block": "mixtral", "renormalize": False}, "Mixtral's block always"),
    ],
)
def test_senseless_options_are_one_clear_line(build_peer, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        build_peer(D, torch.float32, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "optimizer"), [("embedding_bag", "adamw"), ("embedding_bag_sparse", "lazy_adam")])
def test_trained_by_its_own_optimizer(name, optimizer, seed):
    layer, x = peer(name, seed=seed), tokens(seed)
    target, losses = torch.randn(B, D), []
    training = LayerOptimizer(layer, optimizer, learning_rate=0.02)
    for _ in range(8):
        layer.zero_gradients()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        training.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert tensor_bytes(training.state_tensors()) == 2 * sum(p.nbytes for p in layer.parameters())


def test_a_learning_rate_of_zero_leaves_sparse_tables(seed):
    layer, x = peer("embedding_bag_sparse"), tokens(seed)
    before = layer.random_rows.clone()
    training = LayerOptimizer(layer, "lazy_adam", learning_rate=0.0)
    layer(x).sum().backward()
    training.step()
    assert torch.equal(layer.random_rows, before)
    assert tensor_bytes(training.state_tensors())


def test_the_scenario_is_planned():
    done = CliRunner().invoke(app, ["plan", "peers"])
    assert done.exit_code == 0, done.output
    for arm in ("product_key_memory", "embedding_bag_sparse", "peer_pytorch", "mixtral", "qwen3_moe", "olmoe"):
        assert arm in done.output


@pytest.mark.slow
def test_checked_and_noted_in_a_run(scenario_file, tmp_path):
    sizes = ", ".join(f"{key}: {value}" for key, value in MEMORY.items())
    path = scenario_file(
        f"schema_version: 1\nname: small\nmodel_dim: {D}\ndtype: float32\narms:\n"
        f"  pkm: {{layer: 'layers.public.product_key_memory:build', options: {{{sizes}}}}}\n"
        f"workload: {{tokens: {B}, modes: [forward_backward, train_step], optimizers: [adamw]}}\n"
        "measure: {min_samples: 5, floor_samples: 2, max_seconds: 0.2, warmup_seconds: 0.02, retake_seconds: 0}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "membench", "run", path, "--output", str(tmp_path / "out"), "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").glob("*.json")
    for record in read_result(file).cases:
        assert record.status == "ok", record.reason
        assert record.metrics["reference_error"] <= 1e-5
        assert record.metrics["unique_per_lookup"] > 0
        assert record.metrics["mbu"] is not None
        assert record.rounds[0].cost["source"] == "exact"
        assert record.rounds[0].notes[0] == f"product-key-memory {version('product-key-memory')}"
        assert not any("unchecked" in flag for flag in record.flags)
    assert "LayerNorm" in done.stdout
