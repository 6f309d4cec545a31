"""Other programs set torch's default dtype: what layers and kernels compute does not depend on it."""

from contextlib import contextmanager

import pytest
import torch

from layers import build, spec_from
from layers.kernels import paths
from layers.kernels.lookups import find_runs
from layers.kernels.row_passes import row_backward
from layers.optim.layer_optimizer import LayerOptimizer

SMALL = {"num_keys": 64, "key_dim": 4, "top_k": 4, "heads": 2}
KINDS = {
    "dense": {"ffn_hidden": 12},
    "moe": {"num_experts": 4, "expert_hidden": 8, "top_k": 2, "balancing": "bias"},
    "memory": SMALL,
    "memory_plus": SMALL,
    "peer": SMALL,
}


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def one_step(kind, seed, **changes):
    """Results, gradients and weights after one update, of 300 tokens: rows with long runs among them."""
    layer = build(spec_from({"kind": kind, "model_dim": 6, "dtype": "float32", **KINDS[kind], **changes}), seed=seed)
    optimizer = LayerOptimizer(layer, "row_adam", 0.01)
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).requires_grad_()
    with optimizer.fused():
        y = layer(x)
        y.square().sum().backward()
    optimizer.step()
    return [y.detach(), x.grad, *layer.state_dict().values()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same(kind, dtype, path, seed):
    _assert_same(kind, dtype, seed)


def test_long_runs_in_triton_are_the_same(seed):
    """They are the ones that memory is set aside for between two kernels."""
    pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")
    torch.manual_seed(seed)
    table, weights, tokens = torch.randn(9, 6), torch.randn(3, 200), torch.randn(3, 6)
    runs = find_runs(torch.zeros(600, dtype=torch.int32), 9)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        with default_dtype(dtype), paths.forced("triton"):
            results.append(row_backward(table, runs, weights, tokens, gradient=True, dots=True))
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_a_table_in_host_memory_is_the_same(seed):
    _assert_same("memory", torch.bfloat16, seed, table_on="host")


def _assert_same(kind, dtype, seed, **changes):
    expected = one_step(kind, seed, **changes)
    with default_dtype(dtype):
        found = one_step(kind, seed, **changes)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_quantized_rows_are_the_same(seed):
    spec = spec_from({"kind": "memory", "model_dim": 6, "dtype": "float32", **SMALL, "row_format": "int8"})
    expected = build(spec, seed=seed).table.scales
    with default_dtype(torch.bfloat16):
        assert torch.equal(build(spec, seed=seed).table.scales, expected)
