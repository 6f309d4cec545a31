"""Memory and Memory+ layers against their specs and the float64 reference."""

import random

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
from layers.memory import Memory
from layers.spec import MemoryPlusSpec, MemorySpec, Step
from layers.tables.value_table import ValueTable

KINDS = {"memory": MemorySpec, "memory_plus": MemoryPlusSpec}
SMALL = {"model_dim": 64, "num_keys": 64**2, "heads": 2, "top_k": 8, "key_dim": 32, "dtype": "float32"}


def random_spec(rng, kind, dtype):
    dimensions = random_dimensions(rng, "qk_norm" if kind == "memory_plus" else "query_norm")
    # one number summed over all tokens may cancel to nothing, and only its rounding be left
    dimensions["value_dim"] = rng.choice([None, None, 7, 40, 1 if dimensions["num_keys"] >= 25 else 40])
    return KINDS[kind](**dimensions, dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_random_configs(kind, path, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(60):
        layer = Memory(random_spec(rng, kind, "float32"))
        x = tokens_for(layer.spec, rng.choice([1, 3, 24]))
        assert sum(p.numel() for p in layer.parameters()) == layer.spec.cost(Step(len(x))).params
        assert_flops(layer, x)
        assert_selection_exact(layer, x)
        assert_right(layer, tokens_for(layer.spec, 24))


@pytest.mark.parametrize("kind", KINDS)
def test_random_configs_in_bfloat16(kind, path, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(30):
        layer = Memory(random_spec(rng, kind, "bfloat16"))
        x = tokens_for(layer.spec, 48, torch.bfloat16)
        assert_selection_exact(layer, x)
        assert_right(layer, x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("imposed", [False, True])
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_rank_share_and_imposed_routing(kind, ranks, imposed, dtype, seed):
    torch.manual_seed(seed)
    spec = KINDS[kind](**(SMALL | {"dtype": dtype, "value_dim": 96, "companion_hidden": 64}))
    layer = Memory(spec, ranks)
    assert sum(p.numel() for p in layer.parameters()) == spec.cost(Step(16, ranks=ranks)).rank_params
    x = tokens_for(spec, 16, getattr(torch, dtype))
    routing = random_routing(spec, 16, ranks, x.dtype, imposed=imposed)
    assert_flops(layer, x, routing)
    assert_right(layer, x, routing)


@pytest.mark.parametrize("tokens", [1, 7, 130])
@pytest.mark.parametrize(
    "change",
    [
        {"value_dim": 1},
        {"value_dim": 1000},
        {"model_dim": 7},
        {"key_dim": 2},
        {"top_k": 1},
        {"num_keys": 8**2},
        {"num_keys": 1, "top_k": 1},
        {"heads": 16, "num_keys": 16**2},
    ],
    ids=str,
)
def test_awkward_sizes(change, tokens, seed):
    torch.manual_seed(seed)
    layer = Memory(MemorySpec(**(SMALL | change)))
    x = tokens_for(layer.spec, tokens)
    assert_selection_exact(layer, x)
    assert_right(layer, x)


def test_all_lookups_on_one_row(seed):
    torch.manual_seed(seed)
    spec = MemorySpec(**(SMALL | {"top_k": 1}))
    layer, x = Memory(spec), tokens_for(spec, 32)
    assert_right(layer, x, Routing(torch.full((32, spec.heads, 1), 4095)))


def test_a_shared_pool_sums_its_uses(seed):
    torch.manual_seed(seed)
    spec = MemorySpec(**SMALL)
    pool = ValueTable(spec.num_keys, spec.row_elements)
    layers = [Memory(spec, table=pool) for _ in range(3)]
    x = tokens_for(spec, 20)
    separate = []
    for layer in layers:
        layer(x).sum().backward()
        separate.append(pool.gradient.to_dense(spec.num_keys).double())
        pool.gradient = None
    sum(layer(x).sum() for layer in layers).backward()
    assert pool.weight.grad is None
    torch.testing.assert_close(pool.gradient.to_dense(spec.num_keys).double(), sum(separate))


def test_a_table_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="this layer needs"):
        Memory(MemorySpec(**SMALL), table=ValueTable(100, 64))


def test_lookups_of_other_ranks_are_needed_and_only_then():
    x = torch.randn(4, 64)
    with pytest.raises(ValueError, match="4 ranks"):
        Memory(MemorySpec(**SMALL), 4)(x)
    spec = MemorySpec(**SMALL)
    with pytest.raises(ValueError, match="no other ranks"):
        Memory(spec)(x, random_routing(spec, 4, 2, x.dtype, imposed=False))


def test_a_table_trains_alone_when_all_else_is_frozen():
    layer = Memory(MemorySpec(**SMALL)).requires_grad_(False)
    layer(torch.randn(5, 64)).sum().backward()
    assert layer.table.gradient is not None
    assert all(p.grad is None for p in layer.parameters())


def test_same_bits_twice_and_nothing_uninitialized(path, seed):
    """Deterministic mode fills fresh memory with NaN and refuses operators with unordered sums."""
    spec = MemoryPlusSpec(**SMALL)

    def run():
        layer = Memory(spec, generator=torch.Generator().manual_seed(seed))
        x = torch.randn(300, 64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        return [y, x.grad, layer.table.gradient.values, *(p.grad for p in layer.parameters() if p.requires_grad)]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(), run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(first, second, strict=True))
