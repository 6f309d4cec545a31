"""The check before timing finds what is wrong: a harness that cannot say no proves nothing."""

import pytest
import torch

from layers import build, spec_from, verify
from layers.checking import sampled_reference
from layers.checking.sampled_reference import relative_rms
from layers.checking.verification import TOLERANCE
from layers.layer import RemoteAssignments, RemoteLookups, Routing

SPECS = {
    "dense": {"kind": "dense", "model_dim": 48, "ffn_hidden": 80},
    "moe": {"kind": "moe", "model_dim": 48, "num_experts": 6, "expert_hidden": 40, "top_k": 2, "shared_hidden": 24},
    "moe_bias": {
        "kind": "moe", "model_dim": 48, "num_experts": 6, "expert_hidden": 40, "top_k": 2,
        "router": "sigmoid", "balancing": "bias", "renormalize": False,
    },
    "expert_choice": {
        "kind": "moe", "model_dim": 48, "num_experts": 6, "expert_hidden": 40, "top_k": 2, "choice": "expert",
    },
    "memory": {"kind": "memory", "model_dim": 48, "num_keys": 400, "heads": 2, "top_k": 5, "key_dim": 16},
    "memory_plus": {
        "kind": "memory_plus", "model_dim": 48, "num_keys": 400, "heads": 2, "top_k": 5, "key_dim": 16,
        "value_dim": 32, "companion_hidden": 24,
    },
    "peer": {"kind": "peer", "model_dim": 48, "num_keys": 400, "heads": 2, "top_k": 5, "key_dim": 16},
}  # fmt: skip


def built(name, dtype="float32", ranks=1, seed=0):
    return build(spec_from({**SPECS[name], "dtype": dtype}), ranks=ranks, seed=seed)


def tokens(layer, count, seed, std=1.0):
    x = torch.randn(count, layer.spec.model_dim, generator=torch.Generator().manual_seed(seed))
    return (std * x).to(getattr(torch, layer.spec.dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SPECS)
def test_every_kind_passes(name, dtype, seed):
    layer = built(name, dtype, seed=seed)
    found = verify(layer, tokens(layer, 33, seed), seed=seed)
    assert found.failure is None, found
    assert found.tolerance == TOLERANCE[dtype]
    expected = {name for name, _ in layer.named_parameters()} | {"x", "output"}
    assert set(found.errors) == expected


@pytest.mark.parametrize("name", ["memory", "memory_plus", "peer"])
def test_one_rank_of_lookups(name, seed):
    layer, tokens_of_rank, ranks = built(name, ranks=4, seed=seed), 9, 4
    generator = torch.Generator().manual_seed(seed)
    others = tokens(layer, 3 * tokens_of_rank, seed + 1)
    chosen = layer.select(others)
    remote = RemoteLookups(
        chosen.indices,
        chosen.weights.detach(),
        others[:, : layer.spec.model_dim // ranks],
        torch.randn(4 * tokens_of_rank, 2, 5, generator=generator),
    )
    found = verify(layer, tokens(layer, tokens_of_rank, seed), Routing(remote=remote), seed=seed)
    assert found.failure is None, found


def test_one_rank_of_experts(seed):
    layer = built("moe", ranks=3, seed=seed)
    counts = torch.tensor([11, 14])
    found = verify(layer, tokens(layer, 11, seed), Routing(remote=RemoteAssignments(counts)), seed=seed)
    assert found.failure is None, found


@pytest.mark.parametrize(("name", "shape"), [("memory", (2, 5)), ("peer", (2, 5)), ("moe", (2,))])
def test_imposed_routing(name, shape, seed):
    layer = built(name, seed=seed)
    limit = layer.spec.num_experts if name == "moe" else layer.spec.num_keys
    picks = torch.stack([torch.randperm(limit)[: shape[-1]] for _ in range(17 * shape[0] if len(shape) > 1 else 17)])
    found = verify(layer, tokens(layer, 17, seed), Routing(selected=picks.view(17, *shape)), seed=seed)
    assert found.failure is None, found


def scaled_output(layer, factor):
    return lambda x, routing: layer(x, routing) * factor


@pytest.mark.parametrize("name", SPECS)
def test_an_output_off_by_one_percent_is_found(name):
    layer = built(name)
    found = verify(layer, tokens(layer, 33, 1), call=scaled_output(layer, 1.01))
    assert found.failure


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("how", ["scaled", "stray", "missing"])
def test_a_wrong_gradient_of_any_parameter_is_found(name, how, monkeypatch):
    """Each gradient in turn is spoilt after the backward; verify must name that parameter."""
    layer = built(name)
    x = tokens(layer, 33, 2)
    tables = {id(table.weight): table for table in layer.tables()}
    for parameter_name, parameter in layer.named_parameters():
        found = _verify_spoilt(layer, x, parameter, tables.get(id(parameter)), how, monkeypatch)
        assert found is not None, f"{parameter_name} {how}: not found"
        assert parameter_name in found, (parameter_name, found)


def _verify_spoilt(layer, x, parameter, table, how, monkeypatch):
    compare = sampled_reference.SampledReference.gradient_errors

    def spoil_first(self, upstream):
        gradient = parameter.grad if table is None else table.gradient.values
        if how == "missing":
            gradient.zero_()
        elif how == "scaled":
            gradient.mul_(1.01)
        elif table is None:
            gradient.view(-1)[0] += 1e-2
        else:
            gradient[(gradient == 0).all(dim=1).nonzero()[0]] = 1e-3
        return compare(self, upstream)

    with monkeypatch.context() as patch:
        patch.setattr(sampled_reference.SampledReference, "gradient_errors", spoil_first)
        return verify(layer, x).failure


@pytest.mark.parametrize("name", ["memory", "peer", "moe", "expert_choice"])
def test_a_wrong_selection_is_found(name, monkeypatch):
    layer = built(name)
    x = tokens(layer, 33, 3)
    select = type(layer).select

    def worst(self, x):
        chosen = select(self, x)
        limit = layer.spec.num_keys if name in ("memory", "peer") else x.shape[0] if name == "expert_choice" else 6
        indices = chosen.indices.clone()
        indices[..., -1] = (indices[..., 0] + limit // 2) % limit
        return type(chosen)(indices, chosen.weights, chosen.auxiliary_loss)

    monkeypatch.setattr(type(layer), "select", worst)
    assert "chosen score" in verify(layer, x, gradients=False).failure


def test_nan_never_passes():
    layer = built("dense")
    with torch.no_grad():
        layer.down[0, 0] = float("nan")
    assert verify(layer, tokens(layer, 5, 0)).failure


def test_relative_rms_by_hand():
    assert relative_rms(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]]).double()) == pytest.approx(4 / 3)
    assert relative_rms(torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2).double()) == pytest.approx(2.0)
    assert relative_rms(torch.tensor([[2.0, 2.0]]), torch.zeros(1, 2).double(), 4.0) == pytest.approx(0.5)
    assert relative_rms(torch.zeros(2, 2), torch.zeros(2, 2).double()) == 0.0
