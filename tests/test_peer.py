"""PEER layers against their specs and the float64 reference."""

import random
from dataclasses import replace

import pytest
import torch
from retrieval_checks import (
    assert_flops,
    assert_right,
    assert_selection_exact,
    random_dimensions,
    random_routing,
    tokens_for,
)

from layers.layer import Routing
from layers.peer import Peer
from layers.spec import PeerSpec, Step

SMALL = {"model_dim": 64, "num_keys": 64**2, "heads": 2, "top_k": 8, "key_dim": 32, "dtype": "float32"}


def test_random_configs(path, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(60):
        layer = Peer(PeerSpec(**random_dimensions(rng), dtype="float32"))
        x = tokens_for(layer.spec, rng.choice([1, 3, 24]))
        assert sum(p.numel() for p in layer.parameters()) == layer.spec.cost(Step(len(x))).params
        assert_flops(layer, x)
        assert_selection_exact(layer, x)
        assert_right(layer, tokens_for(layer.spec, 24))


def test_random_configs_in_bfloat16(path, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(30):
        layer = Peer(PeerSpec(**random_dimensions(rng), dtype="bfloat16"))
        assert_right(layer, tokens_for(layer.spec, 48, torch.bfloat16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("imposed", [False, True])
@pytest.mark.parametrize("ranks", [1, 4])
def test_rank_share_and_imposed_routing(ranks, imposed, dtype, seed):
    torch.manual_seed(seed)
    spec = PeerSpec(**(SMALL | {"dtype": dtype, "companion_hidden": 64}))
    layer = Peer(spec, ranks)
    assert sum(p.numel() for p in layer.parameters()) == spec.cost(Step(16, ranks=ranks)).rank_params
    x = tokens_for(spec, 16, getattr(torch, dtype))
    routing = random_routing(spec, 16, ranks, x.dtype, imposed=imposed)
    assert_flops(layer, x, routing)
    assert_right(layer, x, routing)


def test_other_ranks_columns_are_needed():
    spec = PeerSpec(**SMALL)
    x = tokens_for(spec, 4)
    lookups = random_routing(spec, 4, 2, x.dtype, imposed=False).remote
    with pytest.raises(ValueError, match="columns and products"):
        Peer(spec, 2)(x, Routing(remote=replace(lookups, columns=None)))


def test_tables_train_alone_when_all_else_is_frozen():
    layer = Peer(PeerSpec(**SMALL)).requires_grad_(False)
    layer(torch.randn(5, 64)).sum().backward()
    assert layer.down.gradient is not None and layer.up.gradient is not None


def test_same_bits_twice_and_nothing_uninitialized(path, seed):
    spec = PeerSpec(**SMALL)

    def run():
        layer = Peer(spec, generator=torch.Generator().manual_seed(seed))
        x = torch.randn(300, 64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        return [y, x.grad, *(t.gradient.values for t in layer.tables()), layer.query.grad, layer.keys.grad]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(), run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(first, second, strict=True))
