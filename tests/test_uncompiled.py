"""Who compiles nothing does not import the compiler, and who does finds it kept out of what it cannot follow."""

import subprocess
import sys
from functools import wraps
from types import SimpleNamespace

import pytest
import torch

from layers import build, spec_from
from layers.kernels.uncompiled import custom_op, uncompiled

CODE = """
import sys, torch
from layers import build, spec_from
from layers.kernels.native import grouped_matmul as native
native._lacks_bf16_units = lambda: sys.argv[1] == "bfloat16"
dtype = getattr(torch, sys.argv[1])
for kind, sizes in {
    "memory": {"num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8},
    "peer": {"num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8},
    "memory_plus": {"num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8},
    "moe": {"num_experts": 8, "expert_hidden": 16, "top_k": 2},
    "dense": {"ffn_hidden": 64},
}.items():
    layer = build(spec_from({"kind": kind, "model_dim": 32, "dtype": sys.argv[1], **sizes}))
    layer(torch.randn(5, 32, dtype=dtype, requires_grad=True)).sum().backward()
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_forward_and_a_backward_pass_do_not_import_the_compiler(dtype):
    done = subprocess.run([sys.executable, "-c", CODE, dtype], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_a_kernel_that_torch_does_not_guard_keeps_what_wraps_it(monkeypatch):
    def operator(name, function, *, mutates_args):
        return SimpleNamespace(_backend_fns={"cpu": function})

    def inner():
        return "bare"

    @wraps(inner)
    def wrapped():
        return "wrapped"

    monkeypatch.setattr(torch.library, "custom_op", operator)
    assert custom_op("membench::unguarded")(wrapped)._backend_fns["cpu"]() == "wrapped"


def test_a_compiler_leaves_it_to_python():
    seen = []

    @uncompiled(reason="it has a side effect")
    def aside(x):
        seen.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(lambda x: aside(2 * x) * 3, backend="eager")
    for _ in range(3):
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 9.0))
    assert seen == [False] * 3
    assert torch.equal(aside(torch.ones(2)), torch.full((2,), 2.0))


def test_a_compiled_layer_keeps_its_row_gradient():
    layer = build(
        spec_from(
            {
                "kind": "memory",
                "model_dim": 32,
                "dtype": "float32",
                "num_keys": 1024,
                "heads": 2,
                "top_k": 4,
                "key_dim": 8,
            }
        )
    )
    x = torch.randn(5, 32)
    layer(x).sum().backward()
    (table,) = layer.tables()
    wanted = table.gradient
    layer.zero_gradients()
    torch.compile(layer, backend="eager")(x).sum().backward()
    assert torch.equal(table.gradient.rows, wanted.rows)
    torch.testing.assert_close(table.gradient.values, wanted.values)
