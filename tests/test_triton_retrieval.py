"""Retrieval by Triton's kernels, whole, against torch's calls: the choice, and what norms take of gradients."""

from triton_device import DEVICE  # isort: split

import pytest
import torch

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
