"""RMS norm in Triton, and fp32 numbers as three of bf16: compiled on a GPU, interpreted elsewhere."""

from triton_device import DEVICE, compiled_for_hopper  # isort: split

import pytest
import torch
from against_reference import poisoned_memory
from torch.nn import functional

from layers.checking.verification import relative_rms
from layers.kernels import paths
from layers.kernels.rms_norm import rms_norm
from layers.kernels.triton.three_parts import three_parts

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture(autouse=True)
def _by_triton():
    with paths.forced("triton"):
        yield


@pytest.mark.parametrize(
    "rows, columns, scales", [(1, 1, 1), (3, 67, 1), (70, 40, 1), (34, 5, 2), (99, 16, 3), (3, 2100, 1)]
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_norms_and_gradients(dtype, rows, columns, scales, seed):
    torch.manual_seed(seed)
    x, scale, upstream = torch.randn(rows, columns), torch.randn(scales, columns), torch.randn(rows, columns)
    scale = scale if scales > 1 else scale[0]
    x, scale, upstream = (each.to(DEVICE, dtype) for each in (x, scale, upstream))
    wide, wide_scale = x.double().requires_grad_(), scale.double().requires_grad_()
    taking_turns = wide_scale.view(scales, columns).repeat(rows // scales, 1)
    expected = functional.rms_norm(wide, (columns,), eps=1e-3) * taking_turns
    gradients = torch.autograd.grad(expected, (wide, wide_scale), upstream.double())
    found = []
    for _ in range(2):
        with poisoned_memory():
            leaves = x.clone().requires_grad_(), scale.clone().requires_grad_()
            normed = rms_norm(*leaves, 1e-3)
            found.append((normed.detach(), *torch.autograd.grad(normed, leaves, upstream)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    for given, wanted in zip(found[0], (expected, *gradients), strict=True):
        assert given.shape == wanted.shape and given.dtype == dtype
        # of one column x has no gradient but rounding
        assert columns == 1 or relative_rms(given, wanted.detach()) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (2, 5, 7), (3, 1100)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_three_parts_add_up(shape, scale, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape, device=DEVICE) * scale
    with poisoned_memory():
        parts = three_parts(x)
    assert parts.shape == (*shape[:-1], 3 * shape[-1]) and parts.dtype == torch.bfloat16
    added = sum(part.double() for part in parts.chunk(3, dim=-1))
    torch.testing.assert_close(added, x.double(), rtol=2.0**-21, atol=0)  # the interpreter cuts off


def test_what_is_no_finite_number_is_the_first_part():
    values = torch.tensor([[float("nan"), float("inf"), float("-inf"), 1.0]], device=DEVICE)
    high, *others = three_parts(values).chunk(3, dim=-1)
    torch.testing.assert_close(high.float(), values, equal_nan=True)
    assert not torch.cat(others).any()


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU compiles what it runs")
def test_compiles_for_hopper_once_for_any_number_of_tokens():
    launched = compiled_for_hopper("""
import torch
from layers.kernels.triton.rms_norm import rms_norm, rms_norm_backward
from layers.kernels.triton.three_parts import three_parts
for rows in (16, 17):
    rms_norm(torch.randn(rows, 512).bfloat16(), torch.ones(512).bfloat16(), 1e-5)
for rows in (16, 18):
    rms_norm_backward(torch.randn(rows, 64), torch.ones(2, 64), torch.randn(rows, 64), 1e-5)
for rows in (16, 17):
    three_parts(torch.randn(rows, 64))
""")
    assert launched[0] == launched[1] and launched[2] == launched[3] and launched[4] == launched[5]
