"""Dense against its float64 reference, its parameters and its counted FLOPs."""

import random

import pytest
import torch
from against_reference import assert_matches, counted_flops, double_weights, poisoned_memory

from layers.checking import reference
from layers.dense import Dense
from layers.spec import DenseSpec, Step
from layers.swiglu import SwiGLU

CONFIGS = 200


@pytest.fixture
def rng(seed):
    torch.manual_seed(seed)
    return random.Random(seed)


def random_spec(rng, largest):
    return DenseSpec(model_dim=rng.randint(1, largest), ffn_hidden=rng.randint(1, largest), dtype="float32")


def test_params_are_numel(rng):
    for _ in range(CONFIGS):
        spec = random_spec(rng, largest=2**14)
        layer = Dense(spec, device="meta")
        assert spec.cost(Step(1)).params == sum(p.numel() for p in layer.parameters()), spec


def test_flops_are_counted_ones(rng):
    for _ in range(CONFIGS):
        spec, tokens = random_spec(rng, largest=512), rng.randint(1, 512)
        d, f = spec.model_dim, spec.ffn_hidden
        x = torch.empty(tokens, d, device="meta", requires_grad=True)
        w = {"gate_up": torch.empty(2 * f, d, device="meta"), "down": torch.empty(d, f, device="meta")}
        for weight in w.values():
            weight.requires_grad_()

        def run(spec=spec, w=w, x=x):
            return reference.dense(spec, w, x)

        forward, both = counted_flops(run)
        assert spec.cost(Step(tokens)).flops == forward, spec
        assert spec.cost(Step(tokens, mode="forward_backward")).flops == both, spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_forward_and_gradients(dtype, rng):
    shapes = [(3, 7, 5), (1, 512, 130), (33, 64, 96), (17, 129, 31)]
    # of a few 16-bit numbers the RMS may be one that lies near a zero of silu's derivative
    least = 1 if dtype == "float32" else 8
    shapes += [tuple(rng.randint(least, 60) for _ in range(3)) for _ in range(CONFIGS)]
    for tokens, d, f in shapes:
        layer = Dense(DenseSpec.model_validate({"model_dim": d, "ffn_hidden": f, "dtype": dtype}))
        x = torch.randn(tokens, d).to(layer.down.dtype).requires_grad_()
        dy = torch.randn(tokens, d).to(x.dtype)
        with poisoned_memory():
            y = layer(x)
            y.backward(dy)

        def expected(leaf, layer=layer, x=x, dy=dy):
            w, x64 = double_weights(layer, leaf), leaf(x)
            y64 = reference.dense(layer.spec, w, x64)
            y64.backward(dy.double())
            return {"y": y64, "dx": x64.grad, **{name: weight.grad for name, weight in w.items()}}

        found = {"y": y, "dx": x.grad, **{name: parameter.grad for name, parameter in layer.named_parameters()}}
        assert_matches(found, expected, dtype, f"{tokens, d, f}")


def test_parameter_names_and_shapes():
    layer = Dense(DenseSpec(model_dim=6, ffn_hidden=10))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"gate_up": (20, 6), "down": (6, 10)}
    assert layer.select(torch.randn(2, 6)) is None


def test_an_expanded_gradient_is_understood():
    layer, x = SwiGLU(16, 24), torch.randn(5, 16)
    layer(x).sum().backward()  # its gradient has stride 0
    expanded = layer.down.grad
    assert expanded is not None
    layer.zero_grad(set_to_none=True)
    layer(x).backward(torch.ones(5, 16))
    assert layer.down.grad is not None and torch.equal(expanded, layer.down.grad)


def test_only_wanted_gradients():
    layer, x = SwiGLU(16, 24), torch.randn(5, 16)
    layer.down.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.down.grad is None and layer.gate_up.grad is not None and x.grad is None


def test_the_same_twice():
    layer, x = Dense(DenseSpec(model_dim=64, ffn_hidden=96, dtype="float32")), torch.randn(33, 64)
    assert torch.equal(layer(x), layer(x))


def test_the_same_weights_from_the_same_seed():
    spec = DenseSpec(model_dim=64, ffn_hidden=96, dtype="float32")
    first, second, other = (Dense(spec, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.gate_up, second.gate_up) and not torch.equal(first.gate_up, other.gate_up)
    assert abs(first.gate_up.std().item() * 8 - 1) < 0.05  # 1 / sqrt(64)
