"""Retrieval by Triton's kernels, whole, against torch's calls: the choice, and what norms take of gradients."""

from triton_device import DEVICE  # isort: split

import pytest
import torch
from torch import nn

from layers import build, spec_from
from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.retrieval import retrieve
from layers.memory import Memory
from layers.spec import MemoryPlusSpec


@pytest.fixture(autouse=True)
def _seeded(seed):
    torch.manual_seed(seed)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_choice_and_gradients(normalized, sparse):
    queries, keys = torch.randn(7, 2, 2, 5, device=DEVICE), torch.randn(2, 2, 13, 5, device=DEVICE)
    upstream, found = torch.randn(7, 2, 3, device=DEVICE), []
    for path in ("triton", "torch"):
        leaves = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        with paths.forced(path):
            halves, weights = retrieve(*leaves, 3, normalized=normalized, eps=1e-6, sparse_backward=sparse)
            found.append((halves, weights.detach(), *torch.autograd.grad(weights, leaves, upstream)))
            with torch.no_grad():
                alone = retrieve(queries, keys, 3, normalized=normalized, eps=1e-6, sparse_backward=sparse)
        assert torch.equal(alone[0], halves) and torch.equal(alone[1], weights)
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert relative_rms(one, other.double()) < 1e-5


@pytest.mark.skipif(DEVICE == "cuda", reason="layers are made on a CPU here")
def test_a_layer_with_normalized_keys():
    layer = Memory(MemoryPlusSpec(model_dim=24, num_keys=256, heads=2, top_k=3, key_dim=12, dtype="float32"))
    x, upstream, found = torch.randn(5, 24), torch.randn(5, 24), []
    for path in ("triton", "torch"):
        layer.zero_gradients()
        leaf = x.clone().requires_grad_()
        with paths.forced(path):
            y = layer(leaf)
            y.backward(upstream)
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        found.append((y.detach(), leaf.grad, layer.table.gradient.to_dense(256), *gradients))
    assert len(found[0]) == len(found[1]) > 6
    for one, other in zip(*found, strict=True):
        assert relative_rms(one, other.double()) < 1e-5


@pytest.mark.skipif(DEVICE == "cuda", reason="a CPU stands in for matrix units")
@pytest.mark.parametrize("trained", ["", "all", "keys", "query", "query_scale"])
def test_a_layer_hands_its_queries_on_in_parts_unless_a_gradient_needs_them_whole(trained, matrix_units):
    spec = {"kind": "memory_plus", "model_dim": 32, "num_keys": 49, "heads": 3, "top_k": 4, "key_dim": 16}
    layer = build(spec_from({**spec, "dtype": "bfloat16"}))
    nn.init.normal_(layer.query_scale)  # as both are drawn, they would only stretch every query
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(trained in ("all", name))
    x = torch.randn(11, 32).bfloat16()
    with paths.forced("torch"):
        wanted = layer.select(x)
        whole = layer._query_halves(x)
    with paths.forced("triton"), torch.set_grad_enabled(bool(trained)):
        halves = layer._query_halves(x)
        found = layer.select(x)
    assert halves.shape == (11, 3, 2, 8 if trained else 24)
    added = halves.double().view(11, 3, 2, -1, 8).sum(3)
    torch.testing.assert_close(added, whole.double(), rtol=1e-5, atol=1e-6)
    assert matrix_units == [(6, 11, 24)] * 2
    assert torch.equal(found.indices.sort().values, wanted.indices.sort().values)
    torch.testing.assert_close(found.weights, wanted.weights, rtol=1e-4, atol=1e-6)
